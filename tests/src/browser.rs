//! Chromium without a window, driven by the WebDriver protocol: what people see of a page, and what it asks for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

/// For one answer: a browser that starts on a busy machine takes long.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// Keys as WebDriver calls them.
pub mod key {
    /// To the next thing that takes keys.
    pub const TAB: &str = "\u{e004}";
    /// Does what has the focus.
    pub const ENTER: &str = "\u{e007}";
    /// Ends something.
    pub const ESCAPE: &str = "\u{e00c}";
    /// To what stands right.
    pub const RIGHT: &str = "\u{e014}";
    /// To what stands below.
    pub const DOWN: &str = "\u{e015}";
}

/// A browser with one page; it ends when this is dropped.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// One, or none where there is no Chromium: that is said loudly.
    pub fn start() -> Option<Browser> {
        let mut command = Command::new("chromedriver");
        command.args(["--port=0", "--allowed-ips=127.0.0.1"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(mut driver) = command.spawn() else {
            eprintln!(
                "\n** SKIPPED: there is no chromedriver, so nobody has looked at the page in a browser. \
                 `make setup` installs it (Debian: chromium-driver) **\n"
            );
            return None;
        };
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        // Whoever doesn't listen any more would have it end.
        std::thread::spawn(move || lines.for_each(drop));
        let profile = tempfile::Builder::new().prefix("etherpool-browser").tempdir().unwrap();
        let mut browser = Browser {
            driver,
            port: port.expect("chromedriver says where it listens"),
            session: String::new(),
            _profile: profile,
        };
        browser.begin();
        Some(browser)
    }

    fn begin(&mut self) {
        let profile = format!("--user-data-dir={}", self._profile.path().display());
        // Root has no sandbox of its own; and what a browser asks its makers is not asked.
        let mut args = vec![
            "--headless=new",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-proxy-server",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--force-prefers-reduced-motion",
            "--window-size=1400,1000",
            &profile,
        ];
        args.extend(rustix::process::geteuid().is_root().then_some("--no-sandbox"));
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": args },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        }}});
        let begun = self.ask("POST", "/session", &wanted);
        self.session = begun["sessionId"].as_str().expect("a session").to_owned();
        // Its first page is its own.
        self.open("about:blank");
        self.asked();
    }

    /// The value that the driver answers with.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.try_ask(method, path, body).unwrap();
        let value: Value = serde_json::from_str(&answer).unwrap_or_default();
        assert!(value["value"]["error"].is_null(), "{method} {path}: {answer}");
        value["value"].clone()
    }

    fn try_ask(&self, method: &str, path: &str, body: &Value) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )?;
        let mut reader = BufReader::new(stream);
        let mut length = None;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok();
            }
        }
        let mut answer = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut answer)?;
        String::from_utf8(answer).map_err(|_| std::io::ErrorKind::InvalidData.into())
    }

    fn of_session(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/session/{}{path}", self.session), body)
    }

    /// Goes to an address.
    pub fn open(&self, url: &str) {
        self.of_session("/url", &json!({ "url": url }));
    }

    /// What a function's body returns in the page.
    pub fn run(&self, body: &str) -> Value {
        self.of_session("/execute/sync", &json!({ "script": body, "args": [] }))
    }

    /// The same as text.
    pub fn text(&self, body: &str) -> String {
        self.run(body).as_str().unwrap_or_default().to_owned()
    }

    /// Presses a key.
    pub fn press(&self, key: &str) {
        let [down, up] = ["keyDown", "keyUp"].map(|what| json!({ "type": what, "value": key }));
        let actions = json!([{ "type": "key", "id": "keys", "actions": [down, up] }]);
        self.of_session("/actions", &json!({ "actions": actions }));
    }

    /// A command of Chromium's own protocol.
    pub fn command(&self, name: &str, params: &Value) -> Value {
        self.of_session("/goog/cdp/execute", &json!({ "cmd": name, "params": params }))
    }

    /// `light` or `dark`, as people have set it.
    pub fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.command("Emulation.setEmulatedMedia", &json!({ "features": features }));
    }

    /// A window of so many pixels.
    pub fn resize(&self, width: u32, height: u32) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.command("Emulation.setDeviceMetricsOverride", &size);
    }

    /// What the console has said that is wrong, since it was asked last.
    pub fn errors(&self) -> Vec<String> {
        let log = self.of_session("/se/log", &json!({ "type": "browser" }));
        let entries = log.as_array().into_iter().flatten();
        let wrong = entries.filter(|entry| entry["level"] != "INFO" && entry["level"] != "DEBUG");
        wrong.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The addresses that were asked for, since this was asked last.
    pub fn asked(&self) -> Vec<String> {
        let log = self.of_session("/se/log", &json!({ "type": "performance" }));
        let entries = log.as_array().into_iter().flatten();
        let events =
            entries.filter_map(|entry| serde_json::from_str(entry["message"].as_str()?).ok());
        let sent = events
            .filter(|event: &Value| event["message"]["method"] == "Network.requestWillBeSent");
        sent.filter_map(|event| {
            event["message"]["params"]["request"]["url"].as_str().map(str::to_owned)
        })
        .collect()
    }

    /// What a screen reader is told: role and name of all that there is.
    pub fn heard(&self) -> Vec<(String, String)> {
        let tree = self.command("Accessibility.getFullAXTree", &json!({}));
        let nodes = tree["nodes"].as_array().into_iter().flatten();
        let of = |node: &Value, key: &str| node[key]["value"].as_str().unwrap_or("").to_owned();
        nodes
            .filter(|node| node["ignored"] != true)
            .map(|node| (of(node, "role"), of(node, "name")))
            .collect()
    }

    /// Keeps a picture of the whole page in this directory of the build's artifacts.
    pub fn keep_picture(&self, directory: &str, name: &str) {
        let whole = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.command("Page.captureScreenshot", &whole);
        let bytes = STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        let file = artifacts(directory).join(format!("{name}.png"));
        std::fs::write(&file, bytes).unwrap();
        println!("{} is how it looked", file.display());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with its session, the driver doesn't.
        let path = format!("/session/{}", self.session);
        let _ = self.try_ask("DELETE", &path, &Value::Null);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// A directory for what is kept of a run: `artifacts` where programs are built.
fn artifacts(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let directory =
        program.ancestors().nth(3).unwrap_or(Path::new(".")).join("artifacts").join(name);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}
