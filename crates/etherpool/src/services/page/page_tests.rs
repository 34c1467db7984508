#![allow(clippy::unwrap_used)]
use axum::routing::any;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// The door to a router that says who asks by which method.
struct Page {
    address: SocketAddr,
}

impl Page {
    async fn new(head_limit: Duration) -> Page {
        let who = async |request: axum::extract::Request| {
            format!("{} by {}", request.method(), Peer::of(&request).name())
        };
        let router = Router::new().route("/who", any(who));
        let troubles = Arc::new(Lasting::logged(|_| {}));
        let door = Arc::new(Door::new(router, Handle::current(), troubles, head_limit));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { accept(&door, listener).await });
        Page { address }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// All that is answered to a request whose connection ends with it.
    async fn ask(&self, head: &str) -> String {
        let mut stream = self.connect().await;
        let head = format!("{head}\r\nconnection: close\r\n\r\n");
        // It may be refused before all of it is taken.
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[tokio::test]
async fn it_is_looked_at_by_this_machines_own_names_and_nothing_else_is_done() {
    let page = Page::new(HEAD_LIMIT).await;
    for host in ["localhost", "localhost:8480", "LOCALHOST:1", "127.0.0.1:8480", "[::1]:8480"] {
        let answer = page.ask(&format!("GET /who HTTP/1.1\r\nhost: {host}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
        assert!(answer.ends_with("GET by the page (read), from 127.0.0.1"), "{host}: {answer}");
    }
    let from = |mode: &str| {
        let mode = format!("sec-fetch-site: cross-site\r\nsec-fetch-mode: {mode}");
        format!("GET /who HTTP/1.1\r\nhost: localhost\r\n{mode}")
    };
    let answer = page.ask(&from("no-cors")).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("another site"), "{answer}");
    let answer = page.ask(&from("navigate")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "a link leads here: {answer}");
    for host in [
        "evil.example",
        "evil.example:8480",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "evil.example@localhost",
        "127.0.0.2",
        "[::2]",
        "",
        "localhost\r\nhost: evil.example",
    ] {
        let answer = page.ask(&format!("GET /who HTTP/1.1\r\nhost: {host}")).await;
        assert!(!answer.contains("GET by"), "{host}: {answer}");
        assert!(answer.starts_with("HTTP/1.1 40"), "{host}: {answer}");
    }
    let answer = page.ask("GET /who HTTP/1.1\r\nx: y").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "no name at all: {answer}");
    for method in ["POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT"] {
        let answer = page.ask(&format!("{method} /who HTTP/1.1\r\nhost: localhost")).await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{method}: {answer}");
        assert!(!answer.contains(" by the page"), "{method}: {answer}");
    }
    let body = "POST /who HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000000";
    assert!(page.ask(body).await.contains("nothing is changed"));
}

#[tokio::test]
async fn browsers_are_told_to_run_and_ask_nothing_of_anybody_else() {
    let page = Page::new(HEAD_LIMIT).await;
    let asked = "GET /who HTTP/1.1\r\nhost: localhost\r\norigin: https://evil.example";
    for answer in [page.ask(asked).await, page.ask("GET /no HTTP/1.1\r\nhost: evil").await] {
        for line in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';",
            "x-content-type-options: nosniff\r\n",
            "referrer-policy: no-referrer\r\n",
            "cache-control: no-store\r\n",
            "cross-origin-resource-policy: same-origin\r\n",
        ] {
            assert!(answer.contains(line), "{line}: {answer}");
        }
        assert!(!answer.contains("access-control"), "{answer}");
    }
    assert!(!POLICY.contains("unsafe"), "{POLICY}");
    let shown = index().await.into_response();
    assert_eq!(shown.headers()[CONTENT_SECURITY_POLICY], POLICY, "by TLS too");
}

#[tokio::test]
async fn those_who_say_nothing_are_ended_and_keep_nobody_out_for_good() {
    let page = Page::new(Duration::from_millis(300)).await;
    let mut mute = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = page.connect().await;
        stream.write_all(b"GET /who HTTP/1.1\r\n").await.unwrap();
        mute.push(stream);
    }
    for mut stream in mute {
        let mut nothing = Vec::new();
        let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut nothing)).await.unwrap();
    }
    let served = async {
        while !page.ask("GET /who HTTP/1.1\r\nhost: localhost").await.contains("GET by") {}
    };
    tokio::time::timeout(LONG, served).await.unwrap();
    let long = format!("GET /who HTTP/1.1\r\nhost: localhost\r\nx: {}", "y".repeat(64 << 10));
    let answer = page.ask(&long).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn there_are_so_many_connections_and_no_more() {
    let page = Page::new(LONG).await;
    let mut all = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        all.push(page.connect().await);
    }
    assert_eq!(page.ask("GET /who HTTP/1.1\r\nhost: localhost").await, "");
    drop(all);
    let served = async {
        while !page.ask("GET /who HTTP/1.1\r\nhost: localhost").await.contains("GET by") {}
    };
    tokio::time::timeout(LONG, served).await.unwrap();
}

/// What a browser is to load beside a file: all of it is ours, and there.
fn named_in(text: &str) -> Vec<&str> {
    ["\"/page/", "'./"]
        .iter()
        .flat_map(|begin| text.split(begin).skip(1))
        .map(|rest| rest.split(['"', '\'']).next().unwrap())
        .collect()
}

#[test]
fn the_page_is_whole_small_and_needs_nobody_else() {
    let bytes: usize = FILES.iter().map(|(_, _, text)| text.len()).sum::<usize>() + INDEX.len();
    assert!(bytes < 150 << 10, "{bytes} bytes");
    let own = FILES.iter().filter(|(name, _, _)| !name.starts_with("uplot"));
    for (name, _, text) in own.chain(&[("index.html", "", INDEX)]) {
        for named in named_in(text) {
            assert!(FILES.iter().any(|(file, _, _)| *file == named), "{name} names {named}");
        }
        for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!text.contains(word), "{name} makes elements of text: {word}");
        }
        let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!elsewhere.contains("://"), "{name} names another server");
    }
    for word in ["<script>", "<style", " style=", " onclick=", " onload="] {
        assert!(!INDEX.contains(word), "what the policy forbids: {word}");
    }
    for (name, _, _) in FILES {
        let is_named = |text: &str| named_in(text).contains(&name);
        let used = is_named(INDEX) || FILES.iter().any(|(_, _, text)| is_named(text));
        assert!(used, "{name} is used by nobody");
    }
}
