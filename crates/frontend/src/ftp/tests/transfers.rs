//! What transfers leave behind: in files, in descriptors, in the session.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::SendFlags;
use tokio::io::AsyncWriteExt;

use super::{LONG, Server, is_reset, wait_for};

/// An upload that had died kept up to a megabyte until its limit, and wrote it then: over the file that
/// had been sent again meanwhile, or behind the end that a resumed one had given it. What came is in the
/// file before more is waited for.
#[tokio::test]
async fn what_came_of_an_upload_is_in_the_file_while_more_is_awaited() {
    let server = Server::new(LONG).await;
    let mut dead = server.log_in("alice").await;
    let mut data = dead.data().await;
    dead.say("APPE f", 150).await;
    data.write_all(b"0123").await.unwrap();
    let mut client = server.log_in("alice").await;
    wait_for("four bytes", || server.read("f") == b"0123").await;
    client.upload("APPE f", b"4567").await;
    dead.say("ABOR", 426).await;
    dead.expect(226..=226).await;
    assert_eq!(server.read("f"), b"01234567");

    // One that never pauses for long, either.
    let mut data = dead.data().await;
    dead.say("STOR f", 150).await;
    let mut sent = 0;
    while server.read("f").is_empty() || server.read("f").starts_with(b"0") {
        assert!(sent < 1000, "nothing is written");
        data.write_all(b"x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        sent += 1;
    }
    drop(data);
    dead.expect(226..=226).await;
    assert_eq!(server.read("f"), b"x".repeat(sent));
    drop((dead, client));
    server.end().await;
}

/// A REST counted for the next transfer however much came between, and that one lacked its head without
/// a word. It is for what comes right behind it, and for nothing once anything else came.
#[tokio::test]
async fn rest_is_for_the_transfer_right_behind_it() {
    let server = Server::new(LONG).await;
    std::fs::write(server.path("file"), "0123456789").unwrap();
    let mut client = server.log_in("alice").await;
    for (between, code) in
        [("ABOR", 226), ("RETR a\tb", 501), ("FROB", 500), ("SIZE file", 213), ("LIST", 425)]
    {
        client.say("REST 5", 350).await;
        client.say(between, code).await;
        assert_eq!(client.download("RETR file").await, b"0123456789", "{between}");
    }
    client.say("REST 5", 350).await;
    client.download("LIST").await;
    client.upload("STOR file", b"new").await;
    assert_eq!(server.read("file"), b"new");
    client.say("REST 1", 350).await;
    client.port().await;
    client.say("RETR missing", 550).await;
    assert_eq!(client.download("RETR file").await, b"new");
    // What prepares a transfer may come between.
    client.say("REST 1", 350).await;
    client.say("TYPE I", 200).await;
    client.say("NOOP", 200).await;
    assert_eq!(client.download("RETR file").await, b"ew");
    drop(client);
    server.end().await;
}

/// A directory was read, looked at and sorted as a whole, in memory, also for a client that had no data
/// connection, and held there while the client read slowly: hundreds of megabytes for each that asked.
#[tokio::test]
async fn a_listing_is_read_while_it_is_sent() {
    let server = Server::new(LONG).await;
    let mut client = server.log_in("anonymous").await;
    for command in ["LIST missing", "NLST missing", "MLSD missing", "RETR missing"] {
        client.say(command, 425).await;
        client.port().await;
        client.say(command, 550).await;
    }
    let mut names: Vec<String> = (0..5_000).map(|number| format!("{number:0>200}")).collect();
    std::fs::create_dir(server.path("d")).unwrap();
    for name in &names {
        std::fs::File::create(server.path("d").join(name)).unwrap();
    }
    let told = String::from_utf8(client.download("NLST d").await).unwrap();
    let mut told: Vec<&str> = told.split_terminator("\r\n").collect();
    told.sort_unstable();
    assert!(told == names);
    names.split_off(1000).iter().for_each(|name| {
        std::fs::remove_file(server.path("d").join(name)).unwrap();
    });
    let told = String::from_utf8(client.download("NLST d").await).unwrap();
    assert!(told.split_terminator("\r\n").eq(names), "few are in order");
    drop(client);
    server.end().await;
}

/// Some clients send ABOR as urgent data, whose last byte doesn't come with the others by default: the
/// line had no end, the client waited for its limit, and the next command was taken for part of it.
#[tokio::test]
async fn abor_comes_as_urgent_data_too() {
    let server = Server::new(LONG).await;
    std::fs::File::create(server.path("large")).unwrap().set_len(1 << 30).unwrap();
    let mut client = server.log_in("anonymous").await;
    let mut data = client.data().await;
    client.say("RETR large", 150).await;
    rustix::net::send(client.0.get_ref(), b"ABOR\r\n", SendFlags::OOB).unwrap();
    client.expect(426..=426).await;
    client.expect(226..=226).await;
    assert!(is_reset(&mut data).await, "it looks complete");
    client.say("NOOP", 200).await;
    drop(client);
    server.end().await;
}

/// The former port was closed a while after the next one was chosen: with as many ports as sessions there
/// was none.
#[tokio::test]
async fn a_port_is_free_for_the_next_transfer() {
    // Where no other test is, nor this one for somebody else.
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let at = SocketAddr::from(([127, 128 | a, b, c], 0));
    let server = Server::with(|setup| {
        setup.listen = at;
        setup.config.passive_ports = 2100..=2100;
    });
    let server = server.await.unwrap();
    std::fs::write(server.path("file"), "contents").unwrap();
    let mut client = server.log_in("anonymous").await;
    client.port().await;
    client.port().await;
    client.data().await;
    client.say("PASV", 227).await;
    client.say("RETR missing", 550).await;
    client.port().await;
    client.say("RETR file", 150).await;
    client.say("ABOR", 426).await;
    client.expect(226..=226).await;
    client.port().await;
    client.say("ABOR", 226).await;
    assert_eq!(client.download("RETR file").await, b"contents");
    assert_eq!(client.download("RETR file").await, b"contents");
    drop(client);
    server.end().await;
}
