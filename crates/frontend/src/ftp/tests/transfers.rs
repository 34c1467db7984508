//! What transfers leave behind: in files, in descriptors, in the session.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::{LONG, Server, wait_for};

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
