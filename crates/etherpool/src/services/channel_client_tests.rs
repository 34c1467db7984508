#![allow(clippy::unwrap_used)]
use super::*;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;

async fn read_request(stream: &mut UnixStream, lines: &mut LineReader) -> RequestLine {
    let mut chunk = [0; 4096];
    loop {
        if let Some(line) = lines.next_line().unwrap() {
            return serde_json::from_slice(&line).unwrap();
        }
        let count = stream.read(&mut chunk).await.unwrap();
        assert!(count > 0);
        lines.push(&chunk[..count]);
    }
}

async fn greet(stream: &mut UnixStream, lines: &mut LineReader, instance: u64) {
    let request = read_request(stream, lines).await;
    assert_eq!(request.request, EngineRequest::Process);
    let process = ProcessState { instance, ..ProcessState::default() };
    let value = serde_json::to_value(process).unwrap();
    stream
        .write_all(&to_line(&ReplyLine::<PoolEvent>::Result { id: request.id, value }))
        .await
        .unwrap();
}

/// A client that is connected to an engine of this instance, and the engine's end.
async fn connected(instance: u64) -> (tempfile::TempDir, EngineClient, UnixStream, LineReader) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("engine.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let client = EngineClient::start(socket);
    let (mut engine, mut lines) = (listener.accept().await.unwrap().0, LineReader::default());
    greet(&mut engine, &mut lines, instance).await;
    client.process().wait_for(Option::is_some).await.unwrap();
    (directory, client, engine, lines)
}

#[tokio::test]
async fn answers_find_their_requests_and_a_dead_engine_fails_them() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("engine.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let client = EngineClient::start(socket);
    let mut process = client.process();

    let (mut engine, mut lines) = (listener.accept().await.unwrap().0, LineReader::default());
    greet(&mut engine, &mut lines, 7).await;
    process.wait_for(Option::is_some).await.unwrap();
    assert_eq!(client.instance(), Some(EngineInstance(7)));

    let one = tokio::spawn({
        let client = client.clone();
        async move { client.call::<u32>(EngineRequest::Pools).await }
    });
    let first = read_request(&mut engine, &mut lines).await;
    let two = tokio::spawn({
        let client = client.clone();
        async move { client.call::<u32>(EngineRequest::Disks).await }
    });
    let second = read_request(&mut engine, &mut lines).await;
    for (id, number) in [(second.id, 2), (first.id, 1)] {
        let reply = ReplyLine::<PoolEvent>::Result { id, value: number.into() };
        engine.write_all(&to_line(&reply)).await.unwrap();
    }
    assert_eq!(one.await.unwrap(), Ok(1));
    assert_eq!(two.await.unwrap(), Ok(2));

    let lost = tokio::spawn({
        let client = client.clone();
        async move { client.call::<u32>(EngineRequest::Disks).await }
    });
    read_request(&mut engine, &mut lines).await;
    drop(engine);
    assert_eq!(lost.await.unwrap().unwrap_err().code, ErrorCode::Unavailable);

    let (mut engine, mut lines) = (listener.accept().await.unwrap().0, LineReader::default());
    greet(&mut engine, &mut lines, 8).await;
    let anew = |process: &Option<ProcessState>| process.as_ref().is_some_and(|p| p.instance == 8);
    process.wait_for(anew).await.unwrap();
}

/// Each waits as long as it may, and no longer; what comes afterwards harms nobody.
#[tokio::test]
async fn a_silent_engine_is_waited_for_within_limits() {
    let (_directory, client, mut engine, mut lines) = connected(7).await;
    let ask = |request| {
        let client = client.clone();
        tokio::spawn(async move { client.call::<u32>(request).await })
    };
    let asked = ask(EngineRequest::Pools);
    let unheard = read_request(&mut engine, &mut lines).await;
    let (told, mut progress) = mpsc::unbounded_channel();
    let volume = block::VolumeName::new("p", "v").unwrap();
    let verify = EngineRequest::VerifyVolume { volume, copy: None };
    let long = tokio::spawn({
        let client = client.clone();
        async move { client.call_with_progress::<u32>(verify, told).await }
    });
    let verify = read_request(&mut engine, &mut lines).await;

    tokio::time::pause();
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable);
    assert!(error.message.contains("which pools there are"), "{error}");
    let news = Progress { done_bytes: 1, total_bytes: 2 };
    let line = to_line(&ReplyLine::<PoolEvent>::Progress { id: verify.id, progress: news });
    tokio::time::resume();
    engine.write_all(&line).await.unwrap();
    assert_eq!(progress.recv().await, Some(news));
    tokio::time::pause();
    let error = long.await.unwrap().unwrap_err();
    assert!(error.message.contains("to verify volume p/v"), "{error}");
    tokio::time::resume();

    let asked = ask(EngineRequest::Disks);
    let heard = read_request(&mut engine, &mut lines).await;
    for id in [unheard.id, verify.id, heard.id] {
        let reply = ReplyLine::<PoolEvent>::Result { id, value: 3.into() };
        engine.write_all(&to_line(&reply)).await.unwrap();
    }
    assert_eq!(asked.await.unwrap(), Ok(3));
}

#[tokio::test]
async fn descriptors_travel_with_their_request() {
    let (_directory, client, engine, _) = connected(1).await;

    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs: OwnedFd = theirs.into_std().unwrap().into();
    let second = theirs.try_clone().unwrap();
    let volume = block::VolumeName::new("p", "v").unwrap();
    let asked = tokio::spawn({
        let client = client.clone();
        let request = EngineRequest::AttachVolume { volume, controlled: true };
        let both = vec![theirs, second];
        async move { client.call_with_descriptors::<()>(request, both).await }
    });
    let engine = engine.into_std().unwrap();
    engine.set_nonblocking(false).unwrap();
    // The client's own task must go on while this waits.
    let (engine, received) = tokio::task::spawn_blocking(move || {
        let received = crate::json_lines::receive_with_descriptors(&engine, &mut [0; 4096]);
        (engine, received.unwrap())
    })
    .await
    .unwrap();
    assert!(received.bytes > 0);
    assert_eq!(received.descriptors.len(), 2);
    drop(received);
    // There are no other copies: our end sees it.
    ours.readable().await.unwrap();
    assert_eq!(ours.try_read(&mut [0; 1]).unwrap(), 0);
    drop(engine);
    assert!(asked.await.unwrap().is_err());
}
