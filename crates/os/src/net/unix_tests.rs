#![allow(clippy::unwrap_used)]

use std::time::Duration;

use arrayvec::ArrayVec;
use block::Buffer;
use runtime::timeout;

use super::*;
use crate::Reactor;

fn frame(first: u8, payload_bytes: usize) -> Frame {
    let mut head = ArrayVec::new();
    head.extend([first; 36]);
    Frame::alone(head, Buffer::copy_of(&vec![first; payload_bytes]))
}

async fn next_frames(port: &UnixPort) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    loop {
        while port.receive(&mut |frame| frames.push(frame.to_vec())) > 0 {}
        if !frames.is_empty() {
            return frames;
        }
        port.readable().await;
    }
}

async fn connected(port: &UnixPort) {
    while !port.is_connected() {
        port.readable().await;
    }
}

#[test]
fn frames_cross_padded_and_whole_and_the_client_comes_back() {
    let (mut reactor, handle) = Reactor::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::open(dir.path()).unwrap();
    let spot = Spot::of(&dir.path().join("node")).unwrap();
    let runtime = handle.runtime().clone();
    let scenario = async move {
        let client = UnixPort::connect(&handle, spot);
        let mut lost = vec![frame(1, 0)];
        client.transmit(&mut lost);
        assert!(lost.is_empty());
        assert_eq!(client.dropped(), 1);
        for _ in 0..3 {
            let listener = UnixPortListener::bind(&handle, &directory, "node").unwrap();
            let server = listener.accept().await;
            connected(&client).await;
            let sizes = [0, 512, UNIX_MTU_BYTES - 22];
            let mut frames: Vec<Frame> = sizes.iter().map(|size| frame(2, *size)).collect();
            client.transmit(&mut frames);
            let mut seen = Vec::new();
            while seen.len() < 3 {
                seen.extend(next_frames(&server).await.iter().map(Vec::len));
            }
            assert_eq!(seen, [60, 548, UNIX_MTU_BYTES + 14]);
            server.transmit(&mut vec![frame(3, 100)]);
            assert_eq!(next_frames(&client).await[0][..136], [3; 136]);
            drop(server);
            // The client notices when it looks.
            while client.is_connected() {
                client.receive(&mut |_| {});
                if client.is_connected() {
                    client.readable().await;
                }
            }
        }
    };
    let limited = async move { timeout(&runtime, Duration::from_secs(20), scenario).await };
    reactor.run_until(limited).unwrap().unwrap();
}

/// Whoever is connected is trusted with what is on disks.
#[test]
fn other_users_are_refused_whatever_the_sockets_mode_is() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can be another user");
        return;
    }
    let (mut reactor, handle) = Reactor::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::open(dir.path()).unwrap();
    let path = dir.path().join("node");
    let spot = Spot::of(&path).unwrap();
    let scenario = async move {
        let listener = UnixPortListener::bind(&handle, &directory, "node").unwrap();
        for (open, mode) in [(dir.path(), 0o755), (&path, 0o666)] {
            let mode = rustix::fs::Mode::from_raw_mode(mode);
            rustix::fs::chmod(open, mode).unwrap();
        }
        let at = path.clone();
        let other = std::thread::spawn(move || {
            let nobody = rustix::process::Uid::from_raw(65_534);
            // Of this thread alone.
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None);
            let socket = socket.unwrap();
            rustix::net::connect(&socket, &SocketAddrUnix::new(&at).unwrap()).unwrap();
            socket
        });
        let other = other.join().unwrap();
        let client = UnixPort::connect(&handle, spot);
        let server = listener.accept().await;
        connected(&client).await;
        client.transmit(&mut vec![frame(2, 100)]);
        assert_eq!(next_frames(&server).await[0][..136], [2; 136]);
        assert_eq!(rustix::io::read(&other, &mut [0; 8]), Ok(0), "it is connected");
    };
    reactor.run_until(scenario).unwrap();
}

#[test]
fn a_peer_that_reads_nothing_costs_frames_only() {
    let (mut reactor, handle) = Reactor::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::open(dir.path()).unwrap();
    let spot = Spot::of(&dir.path().join("node")).unwrap();
    reactor
        .run_until(async move {
            let listener = UnixPortListener::bind(&handle, &directory, "node").unwrap();
            let client = UnixPort::connect(&handle, spot);
            let server = listener.accept().await;
            connected(&client).await;
            assert!(
                UnixPortListener::bind(&handle, &directory, "node").is_err(),
                "somebody listens there"
            );
            for _ in 0..100 {
                let mut frames: Vec<Frame> = (0..64).map(|i| frame(i, 8192)).collect();
                client.transmit(&mut frames);
            }
            assert!(client.dropped() > 0 && client.is_connected());
            let kept = next_frames(&server).await.len() as u64;
            assert_eq!(kept + client.dropped(), 6400);
            // A client that goes away is noticed after its last frame.
            client.transmit(&mut vec![frame(9, 0)]);
            drop(client);
            assert_eq!(next_frames(&server).await[0][0], 9);
            while server.is_connected() {
                server.readable().await;
                server.receive(&mut |_| {});
            }
            server.closed().await;
        })
        .unwrap();
}

#[test]
fn a_dead_process_leaves_a_socket_that_is_replaced() {
    let (_reactor, handle) = Reactor::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node");
    let dead = seqpacket().unwrap();
    rustix::net::bind(&dead, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    drop(dead);
    assert!(path.exists());
    let directory = Directory::open(dir.path()).unwrap();
    UnixPortListener::bind(&handle, &directory, "node").unwrap();
}

/// The kernel lets go of what a killed process's ring holds some moments after the process is gone.
#[test]
fn a_socket_whose_process_is_being_taken_apart_is_replaced() {
    let (_reactor, handle) = Reactor::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dying = seqpacket().unwrap();
    let address = SocketAddrUnix::new(dir.path().join("node")).unwrap();
    rustix::net::bind(&dying, &address).unwrap();
    rustix::net::listen(&dying, BACKLOG).unwrap();
    let end = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(dying);
    });
    let directory = Directory::open(dir.path()).unwrap();
    UnixPortListener::bind(&handle, &directory, "node").unwrap();
    end.join().unwrap();
}
