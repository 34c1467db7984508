#![allow(clippy::unwrap_used)]
use std::io::{Read as _, Write as _};
use std::os::unix::net::{self, UnixListener};
use std::thread::JoinHandle;

use control::api::Missed;
use pool::Progress;
use serde_json::{Value, json};

use super::*;
use crate::{News, Step};

/// A socket at which somebody answers so many requests, as it says by the first line of each.
struct Script {
    directory: tempfile::TempDir,
    count: usize,
    asked: JoinHandle<Vec<String>>,
}

impl Script {
    fn new(count: usize, answer: impl Fn(&str) -> String + Send + 'static) -> Script {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("api.sock")).unwrap();
        let asked = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for stream in listener.incoming().take(count) {
                let (mut stream, mut head) = (stream.unwrap(), Vec::new());
                while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                    let mut some = [0; 1024];
                    let read = stream.read(&mut some).unwrap();
                    if read == 0 {
                        return asked;
                    }
                    head.extend(&some[..read]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let line = head.lines().next().unwrap();
                // Who has heard enough has gone.
                let _ = stream.write_all(answer(line).as_bytes());
                asked.push(head);
            }
            asked
        });
        Script { directory, count, asked }
    }

    fn client(&self) -> Client {
        Client::new(Address::Socket(self.directory.path().join("api.sock")))
    }

    /// The heads of what was asked.
    fn heads(self) -> Vec<String> {
        // Whoever still listens hears by this that nobody asks for more.
        drop(net::UnixStream::connect(self.directory.path().join("api.sock")));
        let asked = self.asked.join().unwrap();
        assert_eq!(asked.len(), self.count, "{asked:?}");
        asked
    }

    /// What was asked for.
    fn lines(self) -> Vec<String> {
        self.heads().iter().map(|head| head.lines().next().unwrap().to_owned()).collect()
    }
}

fn whole(status: &str, answer: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())
}

/// Lines, each of them a piece, of an answer that ends in its middle.
fn torn(lines: &[Value]) -> String {
    let pieces =
        lines.iter().map(|line| format!("{:x}\r\n{line}\n\r\n", line.to_string().len() + 1));
    format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}", pieces.collect::<String>())
}

#[tokio::test]
async fn without_a_supervisor_the_error_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let client = Client::new(Address::Socket(directory.path().join("none.sock")));
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("none.sock"), "{error}");
}

/// A supervisor of version 0.1: it has none of our paths, and says states in its own form.
#[tokio::test]
async fn a_former_supervisor_is_asked_in_its_own_words() {
    let script = Script::new(5, |line| match line {
        "GET /v2/ours HTTP/1.1" => {
            whole("404 Not Found", r#"{"code":"not-found","message":"there is no volume"}"#)
        }
        "GET /v1/one HTTP/1.1" => whole(
            "200 OK",
            r#"{"content":"blank","device_name":"","state":{"is":"refused","why":"x"}}"#,
        ),
        _ if line.contains("/v2/") => whole(
            "404 Not Found",
            r#"{"code":"not-found","message":"the API has no such operation: /v2"}"#,
        ),
        _ => whole("404 Not Found", r#"{"code":"not-found","message":"there is no pool"}"#),
    });
    let client = script.client();
    let answer = client.get::<Value>("/v2/one").await.unwrap();
    assert_eq!((&answer["state"], &answer["why"]), (&"refused".into(), &"x".into()));
    let refused = client.get::<u32>("/v2/other").await.unwrap_err();
    assert_eq!(refused.to_string(), "there is no pool");
    // One that has the operation isn't asked twice.
    let refused = client.get::<u32>("/v2/ours").await.unwrap_err();
    assert_eq!(refused.to_string(), "there is no volume");
    let paths = ["/v2/one", "/v1/one", "/v2/other", "/v1/other", "/v2/ours"];
    assert_eq!(script.lines(), paths.map(|path| format!("GET {path} HTTP/1.1")));
}

/// Who speaks neither version has no operation by which it could be told.
#[tokio::test]
async fn the_version_is_told_also_of_a_former_supervisor_and_of_nobody_else() {
    let unknown = || {
        whole(
            "404 Not Found",
            r#"{"code":"not-found","message":"the API has no such operation: /v"}"#,
        )
    };
    let former = Script::new(4, move |line| match line {
        "GET /v1/status HTTP/1.1" => {
            whole("200 OK", r#"{"version":"0.1.0","host":"h","owner":"o","pools":[]}"#)
        }
        _ => unknown(),
    });
    let report = former.client().version().await.unwrap();
    assert_eq!((&*report.supervisor.version, &*report.supervisor.host), ("0.1.0", "h"));
    assert!(report.remarks[0].contains("0.1.0"), "{:?}", report.remarks);
    let stranger = Script::new(4, move |_| unknown());
    let error = stranger.client().version().await.unwrap_err();
    assert!(matches!(error, Error::NotUnderstood(_)), "{error:?}");
    assert_eq!(stranger.lines().len(), 4);
}

/// Somebody listens and never answers.
#[tokio::test]
async fn silence_ends_with_what_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("mute.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let client = Client::new(Address::Socket(socket)).timeout(Some(Duration::from_millis(50)));
    let of_volume = |what: &str| format!("/v2/pools/p/volumes/v/{what}");
    let errors = [
        client.pool("p").await.unwrap_err(),
        client.post::<u32>(&of_volume("mount"), &()).await.unwrap_err(),
        client.work::<u32>(&of_volume("mkfs"), &()).await.err().unwrap(),
    ];
    drop(listener);
    for (error, what) in errors.iter().zip(["look at pool p", "mount volume p/v", "mkfs"]) {
        let text = error.to_string();
        assert!(text.contains(what) && text.contains("mute.sock"), "{text}");
        let Error::Late { asked, .. } = error else { panic!("{error:?}") };
        assert_eq!(asked.pool.as_deref(), Some("p"));
        assert_eq!(text.contains("go on"), asked.changes, "{text}");
    }
}

#[tokio::test]
async fn what_was_typed_is_said_as_it_can_stand_in_a_head() {
    let script = Script::new(1, |_| whole("200 OK", "[]"));
    let client = script.client().command("pool list\n--evil: é");
    assert!(client.pools().await.unwrap().is_empty());
    let asked = script.heads();
    assert!(asked[0].contains("\r\netherpool-command: pool list --evil: é\r\n"), "{}", asked[0]);
}

#[tokio::test]
async fn a_name_that_is_none_asks_for_nothing() {
    let client = Client::new(Address::Socket("/nonexistent".into()));
    for name in ["..", "a/b", "a?b", "", "a b"] {
        let error = client.pool(name).await.unwrap_err();
        assert!(matches!(&error, Error::Invalid(_)), "{error:?}");
    }
    for path in ["/v2/a b", "v2/pools", ""] {
        let error = client.get::<Value>(path).await.unwrap_err();
        assert!(matches!(&error, Error::Invalid(why) if why.contains(path)), "{error:?}");
    }
}

#[tokio::test]
async fn work_tells_how_far_it_is_and_what_came_of_it() {
    let progress = Progress { done_bytes: 1, total_bytes: 2 };
    let going = [json!({"progress": progress}), json!({"waiting": "for e1.0"})];
    let script = Script::new(4, move |line| {
        let last = match line {
            "POST /good HTTP/1.1" => vec![json!({"result": 7})],
            "POST /bad HTTP/1.1" => vec![json!({"error": {"code": "busy", "message": "m"}})],
            _ => vec![],
        };
        let end = if line.contains("/over") { "0\r\n\r\n" } else { "" };
        torn(&[&going[..], &last].concat()) + end
    });
    let client = script.client();
    for path in ["/good", "/bad", "/torn", "/over"] {
        let mut work = client.work::<u32>(path, &()).await.unwrap();
        let told = [News::Progress(progress), News::Waiting("for e1.0".to_owned())];
        for news in told {
            assert_eq!(work.next().await.unwrap(), Step::Going(news), "{path}");
        }
        match (path, work.next().await) {
            ("/good", Ok(step)) => assert_eq!(step, Step::Done(7)),
            ("/bad", Err(Error::Refused(error))) => assert_eq!(error.code, ErrorCode::Busy),
            ("/torn" | "/over", Err(Error::Ended { asked, .. })) => assert!(asked.changes),
            other => panic!("{other:?}"),
        }
    }
    script.lines();
}

#[tokio::test]
async fn events_come_one_by_one_until_the_supervisor_ends() {
    let happened = EventLine::of(pool::PoolEvent::ScrubBegun { pool: "tank".to_owned() }, 7);
    let lost = EventLine::Missed(Missed::Lost { count: 2 });
    let lines = [&happened, &lost].map(|line| serde_json::to_value(line).unwrap());
    let script = Script::new(1, move |_| torn(&lines));
    let mut events = script.client().events().await.unwrap();
    assert_eq!(events.next().await.unwrap(), happened);
    assert_eq!(events.next().await.unwrap(), lost);
    let error = events.next().await.unwrap_err();
    assert!(matches!(error, Error::Ended { .. }), "{error:?}");
}

/// Each calls for something else: another address, another version, patience.
#[tokio::test]
async fn what_is_no_answer_of_a_supervisor_is_told_apart() {
    let script = Script::new(4, |line| match line {
        "GET /node HTTP/1.1" => "{\"error\":\"not a request\"}\n".to_owned(),
        "GET /other HTTP/1.1" => whole("200 OK", "{\"pool\":1}"),
        "GET /proxy HTTP/1.1" => whole("502 Bad Gateway", "<html>"),
        _ => String::new(),
    });
    let client = script.client();
    for path in ["/node", "/other", "/proxy", "/gone"] {
        let error = client.get::<u32>(path).await.unwrap_err();
        let is_told = match path {
            "/node" => matches!(error, Error::NoSupervisor { .. }),
            "/gone" => matches!(error, Error::Ended { .. }),
            _ => matches!(error, Error::NotUnderstood(_)),
        };
        assert!(is_told, "{path}: {error:?}");
    }
    script.lines();
}

/// A refusal is short, whoever sends it, and of the former version's answers less is taken than of ours.
#[tokio::test]
async fn what_is_longer_than_anything_is_not_read() {
    let script = Script::new(3, |line| match line {
        "GET /v1/former HTTP/1.1" => {
            whole("200 OK", &format!("\"{}\"", "x".repeat(FORMER_BYTES_MAX)))
        }
        "GET /v2/former HTTP/1.1" => {
            whole("404 Not Found", &format!(r#"{{"code":"not-found","message":"{NO_OPERATION}"}}"#))
        }
        _ => whole(
            "404 Not Found",
            &format!(
                r#"{{"code":"not-found","message":"{NO_OPERATION}{}"}}"#,
                "x".repeat(REFUSAL_BYTES_MAX)
            ),
        ),
    });
    let client = script.client();
    for (path, bytes) in [("/v2/ours", REFUSAL_BYTES_MAX), ("/v2/former", FORMER_BYTES_MAX)] {
        let error = client.get::<Value>(path).await.unwrap_err();
        assert!(
            matches!(&error, Error::NotUnderstood(why) if why.contains(&bytes.to_string())),
            "{error:?}"
        );
    }
    script.lines();
}

/// Who sends a part of a line now and then says no more than who is silent.
#[tokio::test]
async fn work_that_says_no_whole_line_is_silent() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("slow.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        // Until who asked has gone, or has waited too long.
        for _ in 0..2000 {
            if stream.write_all(b"1\r\n \r\n").is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let client = Client::new(Address::Socket(socket)).timeout(Some(Duration::from_secs(1)));
    let mut work = client.work::<u32>("/v2/x", &()).await.unwrap();
    let error = work.next().await.unwrap_err();
    assert!(matches!(error, Error::Late { .. }), "{error:?}");
}

/// What stands aside is there as long as nothing is answered, and goes with the answer.
#[tokio::test]
async fn what_is_shown_beside_a_request_ends_with_it() {
    struct Shown(Arc<std::sync::atomic::AtomicU32>);
    impl Drop for Shown {
        fn drop(&mut self) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }
    let ended = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let script = Script::new(1, |_| whole("200 OK", "[]"));
    let told = Arc::clone(&ended);
    let aside: Aside = Arc::new(move |asked: &Asked| {
        assert_eq!(asked.text, "look at pools");
        let shown = Shown(Arc::clone(&told));
        Box::pin(async move {
            let _shown = shown;
            std::future::pending().await
        })
    });
    script.client().aside(Some(aside)).pools().await.unwrap();
    assert_eq!(ended.load(std::sync::atomic::Ordering::SeqCst), 1);
}
