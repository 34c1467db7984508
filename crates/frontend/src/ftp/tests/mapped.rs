//! As whom files are used.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use super::*;

/// A file or directory of somebody's.
fn make(server: &Server, name: &str, (uid, gid): (u32, u32), mode: u32) {
    let path = server.path(name.trim_end_matches('/'));
    match name.ends_with('/') {
        true => std::fs::create_dir(&path).unwrap(),
        false => std::fs::write(&path, name).unwrap(),
    }
    chown(&path, Some(uid), Some(gid)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
}

fn owner(server: &Server, name: &str) -> (u32, u32, u32) {
    let found = server.path(name).symlink_metadata().unwrap();
    (found.uid(), found.gid(), found.mode() & 0o7777)
}

impl Client {
    /// A transfer that is refused, before it begins or instead of it.
    async fn refused(&mut self, command: &str) {
        let _data = self.data().await;
        self.send(format!("{command}\r\n")).await;
        let mut answer = self.answer().await;
        if answer.starts_with("150") {
            answer = self.answer().await;
        }
        assert_eq!(answer, "550 Permission denied.\r\n", "{command}");
    }
}

async fn server() -> Server {
    let server = Server::with(|setup| {
        setup.users = ["alice", "bob:home:uid=1000:gid=100", "carol:uid=1001:gid=101:groups=77,78"]
            .map(|line| match line.split_once(':') {
                Some((name, rest)) => format!("{name}:{}:{rest}\n", *HASH),
                None => format!("{line}:{}\n", *HASH),
            })
            .concat();
    });
    let server = server.await.unwrap();
    make(&server, "public", (0, 0), 0o644);
    make(&server, "roots", (0, 0), 0o600);
    make(&server, "groups", (0, 77), 0o640);
    make(&server, "nobodys-group", (0, 65_534), 0o640);
    make(&server, "closed/", (0, 0), 0o700);
    make(&server, "closed/within", (0, 0), 0o644);
    make(&server, "home/", (1000, 100), 0o755);
    make(&server, "home/secret", (1000, 100), 0o600);
    make(&server, "pile/", (0, 0), 0o1777);
    make(&server, "pile/roots", (0, 0), 0o666);
    server
}

/// Everybody who could connect read every file of a volume.
#[tokio::test]
async fn anonymous_clients_read_what_everybody_may_read() {
    let server = server().await;
    let mut client = server.log_in("anonymous").await;
    assert_eq!(client.download("RETR public").await, b"public");
    assert_eq!(client.download("RETR nobodys-group").await, b"nobodys-group");
    for path in ["roots", "groups", "home/secret", "closed/within"] {
        client.refused(&format!("RETR {path}")).await;
    }
    for command in ["MLSD", "LIST", "NLST"] {
        client.refused(&format!("{command} closed")).await;
    }
    for command in ["CWD closed", "SIZE closed/within", "MLST closed/within", "DELE pile/roots"] {
        assert_eq!(client.say(command, 550).await, "550 Permission denied.\r\n", "{command}");
    }
    // That it is there isn't secret, as for any user of the machine.
    let listed = String::from_utf8(client.download("NLST").await).unwrap();
    assert!(listed.contains("closed") && listed.contains("roots"), "{listed}");
    drop(client);
    server.end().await;
}

#[tokio::test]
async fn a_users_files_are_his_and_those_of_others_are_not() {
    let server = server().await;
    let mut bob = server.log_in("bob").await;
    assert_eq!(bob.download("RETR secret").await, b"home/secret");
    bob.upload("STOR new", b"bobs").await;
    bob.upload("APPE new", b" own").await;
    bob.say("MKD made", 257).await;
    assert_eq!(owner(&server, "home/new"), (1000, 100, 0o644));
    assert_eq!(owner(&server, "home/made"), (1000, 100, 0o755));
    assert_eq!(server.read("home/new"), b"bobs own");
    bob.say("RNFR new", 350).await;
    bob.say("RNTO newer", 250).await;

    let mut carol = server.log_in("carol").await;
    assert_eq!(carol.download("RETR groups").await, b"groups", "by a further group");
    for path in ["home/secret", "roots", "closed/within"] {
        carol.refused(&format!("RETR {path}")).await;
    }
    for path in ["home/newer", "home/carols", "carols", "roots", "public", "closed/x"] {
        carol.refused(&format!("STOR {path}")).await;
        carol.refused(&format!("APPE {path}")).await;
    }
    carol.upload("STOR pile/carols", b"hers").await;
    assert_eq!(owner(&server, "pile/carols"), (1001, 101, 0o644));
    for command in
        ["DELE home/newer", "RMD home/made", "MKD home/x", "MKD x", "DELE pile/roots", "CWD closed"]
    {
        assert_eq!(carol.say(command, 550).await, "550 Permission denied.\r\n", "{command}");
    }
    carol.say("RNFR home/newer", 350).await;
    carol.say("RNTO pile/moved", 550).await;
    assert_eq!(server.read("home/newer"), b"bobs own");
    drop((bob, carol));
    server.end().await;
}

/// Who had no number used files as root; with a volume that is root's he still does.
#[tokio::test]
async fn who_has_no_number_is_the_owner_of_the_volume() {
    let server = server().await;
    let mut alice = server.log_in("alice").await;
    alice.upload("STOR new", b"").await;
    assert_eq!(owner(&server, "new"), (0, 0, 0o644));
    chown(server.path(""), Some(1001), Some(77)).unwrap();
    alice.upload("STOR newer", b"").await;
    assert_eq!(owner(&server, "newer"), (1001, 77, 0o644));
    assert_eq!(alice.download("RETR groups").await, b"groups");
    alice.refused("RETR roots").await;
    drop(alice);
    server.end().await;
}

/// Threads are shared: none keeps the rights of the one for whom it worked last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_a_time_are_each_themselves() {
    let server = server().await;
    let one = |name: &'static str, may: [bool; 3]| {
        let server = &server;
        async move {
            let mut client = server.log_in(name).await;
            for _ in 0..40 {
                let home = if name == "bob" { "" } else { "home/" };
                let paths = [format!("{home}secret"), "groups".into(), "closed/within".into()];
                for (path, may) in paths.iter().zip(may) {
                    match may {
                        true => drop(client.download(&format!("RETR {path}")).await),
                        false if name == "bob" => {
                            drop(client.say(&format!("SIZE {path}"), 550).await)
                        }
                        false => client.refused(&format!("RETR {path}")).await,
                    }
                }
            }
        }
    };
    tokio::join!(
        one("anonymous", [false; 3]),
        one("alice", [true; 3]),
        one("bob", [true, false, false]),
        one("carol", [false, true, false]),
        one("anonymous", [false; 3]),
    );
    server.end().await;
}

/// Nothing of another user's stays on a file that is written to by who isn't root.
#[tokio::test]
async fn what_makes_root_of_others_is_taken_off_by_an_upload() {
    let server = server().await;
    let mut carol = server.log_in("carol").await;
    make(&server, "tool", (0, 0), 0o6777);
    carol.upload("STOR tool", b"#!/bin/sh").await;
    assert_eq!(owner(&server, "tool"), (0, 0, 0o777));
    drop(carol);
    server.end().await;
}
