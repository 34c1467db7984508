//! The live page in a real browser, beside `etherpool status`, while a node dies and comes back; and its door.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use blackbox::browser::{Browser, key};
use blackbox::{Lab, LabOptions, VOLUME, etherpool, free_address, text_of, wait_until};
use serde_json::{Value, json};

/// As a name of what a disk is in, and as what somebody has typed.
const HOSTILE: &str = "<img src=x onerror=\"document.title='hit'\"><b id=hit>";

/// What the page shows, as text.
const SHOWN: &str = r#"
    const text = node => node.textContent.trim();
    const all = (selector, of = document) => [...of.querySelectorAll(selector)];
    const rows = id => all(`#${id} tbody tr`).map(row => all('th, td', row).map(text));
    return {
        headline: text(document.querySelector('#headline')),
        wrong: all('#wrong > li').map(item => [text(item.querySelector('h2')), ...all('dd', item).map(text)]),
        machines: rows('machines'), disks: rows('disks'), pools: rows('pools'), volumes: rows('volumes'),
        survives: all('#survives > li').map(text),
        picture: all('#picture [data-key]').map(node => node.getAttribute('aria-label')),
    };
"#;

struct Page {
    lab: Lab,
    address: SocketAddr,
}

impl Page {
    fn up() -> Page {
        let lab = Lab::up(&LabOptions { disks: 2, size: "512M", ..LabOptions::default() });
        let address = free_address();
        let own = format!("[page]\nlisten = '{address}'\n");
        lab.configure_supervisor(&own);
        let page = Page { lab, address };
        wait_until("the page is served", || page.curl(&[], "/").0 == 200);
        page
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The HTTP status that curl gets, 0 for none, and the answer with its head.
    fn curl(&self, args: &[&str], path: &str) -> (u16, String) {
        let mut command = Command::new("curl");
        command
            .args(["-sSi", "--max-time", "60", "--path-as-is", "-w", "\n%{http_code}"])
            .args(args);
        let output = command.arg(format!("http://{}{path}", self.address)).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), answer.to_owned())
    }

    /// A further disk on a node, in a file that is called as nothing should be.
    fn add_hostile_disk(&self, node: &str) {
        let file = self.lab.dir().join("disks").join(HOSTILE);
        std::fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
        let config = self.lab.dir().join(node).join("node.toml");
        let mut text = std::fs::read_to_string(&config).unwrap();
        let shelf = text.lines().find_map(|line| line.strip_prefix("shelf = ")).unwrap().to_owned();
        text.push_str(&format!("\n[[export]]\naddress = \"e{shelf}.9\"\npath = {:?}\n", file));
        std::fs::write(&config, text).unwrap();
        self.lab.reload(node);
    }

    /// Has the history remember a command with such words.
    fn type_hostile_command(&self) {
        let socket = self.lab.dir().join("supervisor/run/api.sock");
        let mut command = Command::new("curl");
        command.args(["-sS", "-X", "POST", "-H"]).arg(format!("etherpool-command: {HOSTILE}"));
        command.arg("--unix-socket").arg(socket).arg("http://localhost/v2/pools/cluster/scrub");
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", text_of(&output));
    }
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The row of a table that begins so.
fn row<'a>(shown: &'a Value, table: &str, head: &str) -> Vec<&'a str> {
    let rows = shown[table].as_array().into_iter().flatten().map(texts);
    rows.into_iter().find(|row| row.first() == Some(&head)).unwrap_or_default()
}

fn state(thing: &Value) -> &str {
    thing["state"].as_str().unwrap_or("none")
}

/// What a page says otherwise than status, if anything.
fn difference(shown: &Value, status: &Value) -> Option<String> {
    let wrong = status["wrong"].as_array().unwrap();
    let headline = match wrong.len() {
        0 => "all is well".to_owned(),
        1 => "one thing is wrong".to_owned(),
        many => format!("{many} things are wrong"),
    };
    if shown["headline"] != headline.as_str() {
        return Some(format!("{headline}, and not {}", shown["headline"]));
    }
    let word = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    let expected: Vec<[String; 3]> = wrong
        .iter()
        .map(|one| {
            let head = format!("{}: {}", word(one, "severity"), word(one, "text"));
            [head, word(one, "data"), word(one, "remedy")]
        })
        .collect();
    let said = shown["wrong"].as_array().unwrap().iter().map(|entry| {
        let parts = texts(entry);
        [parts[0], parts[2], parts[3]].map(str::to_owned)
    });
    let said: Vec<[String; 3]> = said.collect();
    if said != expected {
        return Some(format!("{expected:#?}, and not {said:#?}"));
    }
    for pool in status["pools"].as_array().unwrap() {
        let row = row(shown, "pools", pool["name"].as_str().unwrap());
        if row.get(1).is_none_or(|said| !said.starts_with(state(pool))) {
            return Some(format!("{} is {}, and not {row:?}", pool["name"], state(pool)));
        }
        for volume in pool["volumes"].as_array().unwrap() {
            let name = format!("{}/{}", word(pool, "name"), word(volume, "name"));
            let row = self::row(shown, "volumes", &name);
            if row.get(1).is_none_or(|said| !said.starts_with(state(volume))) {
                return Some(format!("{name} is {}, and not {row:?}", state(volume)));
            }
        }
        for disk in pool["disks"].as_array().unwrap() {
            let row = self::row(shown, "disks", disk["name"].as_str().unwrap());
            if row.get(1).is_none_or(|said| !said.starts_with(state(disk))) {
                return Some(format!("{} is {}, and not {row:?}", disk["name"], state(disk)));
            }
        }
    }
    None
}

/// Waits until the page says what status says, and that is as it is expected; what both said.
fn wait_until_both_say(
    what: &str,
    page: &Page,
    browser: &Browser,
    is_it: impl Fn(&Value) -> bool,
) -> (Value, Value) {
    let (mut both, mut why) = (None, None);
    let done = || {
        let status = page.lab.json(&["status"]);
        let shown = browser.run(SHOWN);
        // It may have looked a moment before; but what stays so it says.
        let is_so = is_it(&status) && is_it(&page.lab.json(&["status"]));
        let said = difference(&shown, &status);
        if said != why {
            println!("{}", said.as_deref().unwrap_or("both say the same"));
            why.clone_from(&said);
        }
        both = Some((shown, status));
        is_so && said.is_none()
    };
    wait_until(what, done);
    both.unwrap()
}

fn is_well(status: &Value) -> bool {
    status["wrong"].as_array().is_some_and(Vec::is_empty)
        && state(&status["pools"][0]) == "online"
        && status["pools"][0]["jobs"].as_array().is_some_and(Vec::is_empty)
}

/// Text, and its ground, far enough apart in this scheme (WCAG AA).
fn assert_contrast(browser: &Browser, scheme: &str) {
    let few = browser.run(
        r#"
        const style = getComputedStyle(document.documentElement);
        const light = name => {
            const hex = style.getPropertyValue(name).trim().slice(1);
            const [r, g, b] = [0, 2, 4].map(at => parseInt(hex.slice(at, at + 2), 16) / 255)
                .map(part => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
        const colours = ['--text', '--quiet', '--well', '--warn', '--bad', '--off', '--link', '--read', '--write', '--copied'];
        return colours.flatMap(name => ['--ground', '--raised'].map(ground => [name, ground, contrast(name, ground)]))
            .filter(([, , is]) => !(is >= 4.5)).map(entry => entry.join(' '));
        "#,
    );
    assert_eq!(few, json!([]), "{scheme}");
}

/// Goes through the page by keys alone.
fn walk_by_keys(browser: &Browser) {
    let focus = "const at = document.activeElement; return at.className && at.className.baseVal === undefined \
                 ? at.className + ' ' + at.id : at.id || at.getAttribute('aria-label') || at.tagName";
    let pressed = |key: &str| {
        browser.press(key);
        browser.text(focus)
    };
    browser.run("document.activeElement.blur(); window.getSelection().removeAllRanges(); window.scrollTo(0, 0)");
    browser.run("document.body.setAttribute('tabindex', -1); document.body.focus(); document.body.removeAttribute('tabindex')");
    assert!(pressed(key::TAB).starts_with("skip"), "the first is the way to what is wrong");
    let is_seen = "return document.activeElement.getBoundingClientRect().top >= 0";
    assert_eq!(browser.run(is_seen), true, "and is seen then");
    let mut at = String::new();
    for _ in 0..6 {
        at = pressed(key::TAB);
        if at.starts_with("machine ") {
            break;
        }
    }
    assert!(at.starts_with("machine n1,"), "then into the picture: {at}");
    let outline =
        "return getComputedStyle(document.activeElement.querySelector('rect')).strokeWidth";
    assert_eq!(browser.text(outline), "3px", "what has the focus is seen");
    assert!(pressed(key::DOWN).starts_with("machine n2,"));
    browser.press(key::ENTER);
    let told = browser.text("return document.querySelector('#picked').textContent");
    assert_eq!(
        told, "machine n2: 2 disks, 1 pool, 1 volume, 2 uses hang on it; it needs nothing.",
        "what hangs on it is said"
    );
    let hangs = "return document.querySelectorAll('#picture .node.hangs').length";
    assert_eq!(browser.run(hangs), 6, "and drawn");
    assert_eq!(browser.text("return document.activeElement.getAttribute('aria-pressed')"), "true");
    let at = pressed(key::RIGHT);
    assert!(at.starts_with("disk "), "{at}");
    let at = pressed(key::RIGHT);
    assert!(at.starts_with("pool cluster,"), "{at}");
    browser.press(key::ESCAPE);
    assert_eq!(browser.text("return document.querySelector('#picked').textContent"), "");
    let at = pressed(key::TAB);
    assert!(at.starts_with("scroll") || at == "Table of machines", "Tab leads out of it: {at}");
}

/// What a screen reader makes of it.
fn assert_heard(browser: &Browser) {
    let heard = browser.heard();
    let is_there = |role: &str, name: &str| {
        heard.iter().any(|(is, said)| is == role && said.starts_with(name))
    };
    for (role, name) in [
        ("heading", "all is well"),
        ("table", "Machines"),
        ("table", "Disks"),
        ("table", "Pools"),
        ("table", "Volumes"),
        ("table", "Rates and latencies now"),
        ("columnheader", "survives"),
        ("rowheader", "n2"),
        ("rowheader", VOLUME),
        ("group", "What depends on what: 3 machines, 7 disks, 1 pool, 1 volume"),
        ("button", "machine n2, answers"),
        ("button", "pool cluster, online"),
        ("button", &format!("volume {VOLUME}, online")),
        ("image", "Rates of the last five minutes; now read "),
        ("image", "Mean latencies of the last five minutes"),
        ("log", "Events"),
        ("main", ""),
        ("link", "To what is wrong"),
    ] {
        assert!(is_there(role, name), "no {role} {name:?} in {heard:#?}");
    }
    let nameless: Vec<_> = heard
        .iter()
        .filter(|(role, name)| {
            ["button", "link", "table", "image", "region"].contains(&role.as_str())
                && name.is_empty()
        })
        .collect();
    assert!(nameless.is_empty(), "without a name: {nameless:?}");
}

#[test]
fn it_says_what_status_says_while_a_node_dies_and_comes_back() {
    let Some(browser) = Browser::start() else { return };
    let page = Page::up();
    let lab = &page.lab;
    page.add_hostile_disk("n3");
    page.type_hostile_command();
    lab.wait_for_disks(7);
    browser.prefer("light");
    browser.open(&page.url());
    let (shown, _) = wait_until_both_say("all is well", &page, &browser, is_well);
    assert!(texts(&shown["survives"]).contains(&"pool cluster survives 1 failure"), "{shown}");
    let volume = row(&shown, "volumes", VOLUME);
    let mount = format!("mount {}", lab.mount().display());
    assert!(volume.iter().any(|used| used.contains(&mount)), "{volume:?}");

    // Names are whatever somebody has chosen: they are shown, and are no elements.
    let named =
        shown["disks"].as_array().unwrap().iter().filter(|row| texts(row)[3].contains(HOSTILE));
    assert_eq!(named.count(), 1, "{shown}");
    wait_until("the command is among the events", || {
        browser.text("return document.querySelector('#events').textContent").contains(HOSTILE)
    });
    assert_eq!(browser.run("return document.querySelectorAll('#hit, img, body script').length"), 0);
    assert_ne!(browser.text("return document.title"), "hit");

    // Work, which rates and latencies are of.
    std::fs::write(lab.mount().join("file"), vec![7; 8 << 20]).unwrap();
    Command::new("sync").arg("-f").arg(lab.mount()).status().unwrap();
    wait_until("the rates tell of it", || {
        std::fs::write(lab.mount().join("more"), vec![7; 1 << 20]).unwrap();
        Command::new("sync").arg("-f").arg(lab.mount()).status().unwrap();
        let cells = "return [...document.querySelectorAll('#rates tbody tr:nth-child(2) > *')].map(c => c.textContent)";
        let cells = browser.run(cells);
        let cells = texts(&cells);
        cells[0] == VOLUME
            && cells[2].ends_with("B/s")
            && cells[2] != "0 B/s"
            && cells[5].ends_with('s')
    });
    assert_eq!(browser.run("return document.querySelectorAll('.chart canvas').length"), 2);

    assert_heard(&browser);
    walk_by_keys(&browser);
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        assert_contrast(&browser, scheme);
        browser.keep_picture("page", &format!("well-{scheme}"));
    }
    browser.resize(400, 900);
    wait_until("it is no wider than a small window", || {
        browser.run("return document.documentElement.scrollWidth <= 400 && innerWidth <= 400")
            == true
    });
    browser.keep_picture("page", "narrow");
    browser.resize(1400, 1000);
    browser.prefer("light");

    lab.lab(&["kill", "n2"]);
    let dies = |status: &Value| {
        let pool = &status["pools"][0];
        let missing =
            pool["disks"].as_array().unwrap().iter().filter(|disk| state(disk) == "missing");
        let wrong = status["wrong"].as_array().unwrap();
        !wrong.is_empty() && state(pool) == "degraded" && missing.count() == 2
    };
    let (shown, _) = wait_until_both_say("a node is dead", &page, &browser, dies);
    assert_eq!(row(&shown, "machines", "n2")[1], "no disk answers", "{shown}");
    let seen = texts(&shown["picture"]);
    assert!(seen.contains(&"machine n2, no disk answers"), "{seen:?}");
    assert_eq!(seen.iter().filter(|what| what.contains(", missing")).count(), 2, "{seen:?}");
    assert!(seen.iter().any(|what| what.starts_with("pool cluster, degraded")), "{seen:?}");
    let marked = "return [...document.querySelectorAll('#picture .node.bad')].map(node => node.querySelector('.mark').getAttribute('d'))";
    let marks = browser.run(marked);
    assert!(
        texts(&marks).len() >= 3 && texts(&marks).iter().all(|mark| mark.contains('H')),
        "{marks}"
    );
    browser.keep_picture("page", "node-dead-light");
    browser.prefer("dark");
    browser.keep_picture("page", "node-dead-dark");
    browser.prefer("light");
    let title = browser.text("return document.title");
    assert!(title.contains("wrong"), "{title}");

    lab.lab(&["start", "n2"]);
    wait_until_both_say("the node is back", &page, &browser, is_well);

    // Nothing was wrong with the page itself, and it has asked nobody else.
    assert_eq!(browser.errors(), Vec::<String>::new());
    let asked = browser.asked();
    let of_us = format!("http://{}/", page.address);
    assert!(asked.iter().any(|url| url.ends_with("/v2/events")) && asked.len() > 20, "{asked:?}");
    let elsewhere: Vec<_> = asked.iter().filter(|url| !url.starts_with(&of_us)).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");

    lab.lab(&["kill", "supervisor"]);
    let lost = || {
        browser.text("const lost = document.querySelector('#lost'); return lost.hidden ? '' : lost.textContent")
    };
    wait_until("the page says that nobody answers", || lost().contains("doesn’t answer since"));
    assert!(lost().contains("What stands below was so at"), "{}", lost());
    let headline = browser.text("return document.querySelector('#headline').textContent");
    assert!(headline.starts_with("not known"), "{headline}");
    lab.lab(&["start", "supervisor"]);
    wait_until("the page goes on by itself", || lost().is_empty());
    wait_until_both_say("all is well again", &page, &browser, is_well);
}

/// A hundred machines with 24 disks each, as the API would tell of them.
const LARGE: &str = r#"
    const disks = [];
    for (let n = 1; n <= 100; n++) for (let d = 0; d < 24; d++) disks.push({
        name: `e${n}.${d}`, id: `i${n}.${d}`, node: `node-${n}`, device_name: `/dev/sd${d}`, size_bytes: 2 ** 43, free_bytes: 2 ** 42,
        state: n === 7 ? 'missing' : d === 5 && n === 9 ? 'out' : 'usable', dirty_bytes: n === 3 && d === 1 ? 4096 : 0, checksum_errors: 0, holds_vote: n < 6,
    });
    const volumes = Array.from({ length: 300 }, (_, v) => ({
        name: `v${v}`, id: `v${v}`, layout: 'mirror:2', size_bytes: 2 ** 40, properties: {}, state: v < 3 ? 'degraded' : 'online', degraded: v < 3, dirty_bytes: 0, read_bytes: 0,
        written_bytes: 0, resynced_bytes: 0, survives_disks: 1, survives_nodes: 1,
    }));
    const pool = {
        name: 'large', id: 'p', state: 'degraded', capacity_bytes: 2 ** 53, free_bytes: 2 ** 52, survives: 1, disks, volumes,
        votes: { total: 5, present: 5 }, lease_ok: true, jobs: [{ number: 1, kind: 'rebuild', disk: 'e7.0', total_bytes: 100, left_bytes: 40, state: 'running' }],
    };
    const services = volumes.map(volume => ({ volume: `large/${volume.name}`, mount: 'on', mount_path: `/srv/${volume.name}`, ftp: 'off', exports: [] }));
    const status = { version: '0', at_secs: 1000, wrong: [], host: 'large', pools: [pool], services, warnings: [], engine: null };
    const answers = { '/v2/status': status, '/v2/disks': [] };
    window.fetch = async path => {
        window.looks = (window.looks || 0) + (path === '/v2/status' ? 1 : 0);
        if (path === '/v2/events') return new Response(new ReadableStream({}));
        return answers[path] ? Response.json(answers[path]) : Response.json({ message: 'no' }, { status: 404 });
    };
"#;

#[test]
fn a_large_cluster_can_be_looked_at() {
    let Some(browser) = Browser::start() else { return };
    let page = Page::up();
    browser.command("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": LARGE }));
    browser.open(&page.url());
    wait_until("it is shown several times", || {
        browser.run("return window.looks").as_u64() > Some(1)
    });
    let shown = browser.run(SHOWN);
    let counts =
        ["machines", "disks", "volumes"].map(|table| shown[table].as_array().unwrap().len());
    assert_eq!(counts, [100, 2400, 300]);
    let seen = texts(&shown["picture"]);
    assert!(seen.len() < 20, "{} things are drawn", seen.len());
    for drawn in [
        "98 machines, answers",
        "machine node-7, no disk answers",
        "machine node-9, disks not well",
        "2352 disks, usable",
        "24 disks, missing",
        "disk e9.5, out",
        "297 volumes, online",
        "volume large/v0, degraded",
        "297 uses, on",
    ] {
        assert!(seen.contains(&drawn), "{drawn}: {seen:?}");
    }
    // Nothing is asked while nobody looks.
    let looks = || browser.run("return window.looks").as_u64().unwrap();
    let seen_as = |state: &str| {
        browser.run(&format!(
            "Object.defineProperty(document, 'visibilityState', {{ value: '{state}', configurable: true }}); \
             document.dispatchEvent(new Event('visibilitychange'))"
        ))
    };
    seen_as("hidden");
    let before = looks();
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert!(looks() <= before + 1, "what was under way at most");
    seen_as("visible");
    wait_until("it is looked at again", || looks() > before + 1);
    // What stays the same isn't made anew.
    browser.run(
        "window.was = [...document.querySelectorAll('#picture svg, #disks tbody tr, #volumes tbody td')]",
    );
    let before = looks();
    wait_until("it was shown again", || looks() > before + 1);
    assert_eq!(browser.run("return window.was.every(node => node.isConnected)"), true);
    let job = "const bar = document.querySelector('#jobs progress'); return `${bar.value} ${bar.getAttribute('aria-label')}`";
    assert_eq!(browser.text(job), "60 rebuild of e7.0");
    let resync = "const row = document.querySelector('#jobs tbody tr:nth-child(2)'); return `${row.textContent} ${row.querySelector('progress')}`";
    assert_eq!(browser.text(resync), "large: resync of e3.1running-4.00 KiB- null");
    assert_eq!(browser.errors(), Vec::<String>::new());
    browser.keep_picture("page", "large");
}

#[test]
fn its_door_is_for_looking_by_this_machine_alone() {
    let page = Page::up();
    let (status, answer) = page.curl(&[], "/");
    assert!(
        status == 200 && answer.contains("content-security-policy: default-src 'none'"),
        "{answer}"
    );
    assert_eq!(page.curl(&["-I"], "/page/page.js").0, 200);
    let (status, answer) = page.curl(&[], "/v2/status");
    assert!(status == 200 && answer.contains("\"wrong\":[]"), "{status}: {answer}");
    for path in [
        "/v2/members",
        "/v2/pools",
        "/v2/pools/cluster/key",
        "/metrics",
        "/page/../v2/pools",
        "/page/secret",
    ] {
        assert_eq!(page.curl(&[], path).0, 404, "{path}");
    }
    for (method, path) in [
        ("POST", "/v2/pools/cluster/scrub"),
        ("POST", "/v2/tokens"),
        ("DELETE", "/v2/pools/cluster/volumes/hyperspace"),
        ("OPTIONS", "/v2/status"),
        ("PUT", "/"),
    ] {
        let (status, answer) = page.curl(&["-X", method], path);
        assert!(
            status == 403 && answer.contains("nothing is changed"),
            "{method} {path}: {answer}"
        );
    }
    for host in
        ["evil.example", &format!("evil.example:{}", page.address.port()), "localhost.evil.example"]
    {
        let (status, answer) = page.curl(&["-H", &format!("Host: {host}")], "/v2/status");
        assert!(status == 403 && answer.contains("isn't this machine's own"), "{host}: {answer}");
    }
    let others = page.address.port();
    assert_eq!(page.curl(&["-H", &format!("Host: localhost:{others}")], "/v2/status").0, 200);
    // Who says nothing keeps the socket's users out of nothing.
    let mute: Vec<_> =
        (0..300).map(|_| std::net::TcpStream::connect(page.address).unwrap()).collect();
    assert!(page.lab.cli(&["pool", "list"]).contains("cluster"));
    drop(mute);
    wait_until("the page is served again", || page.curl(&[], "/").0 == 200);
}

#[test]
fn it_is_served_in_clear_to_no_other_machine() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("supervisor.toml");
    for address in ["0.0.0.0:8480", "192.0.2.1:8480", "[::]:8480"] {
        std::fs::write(&file, format!("[page]\nlisten = [\"127.0.0.1:8480\", \"{address}\"]\n"))
            .unwrap();
        for check in [&["--check"][..], &[]] {
            let mut command = etherpool();
            command.arg("supervisor").args(check).arg("--config").arg(&file);
            let output = command.stdin(Stdio::null()).output().unwrap();
            let text = text_of(&output);
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(text.contains("by TLS at the addresses of [api], or by ssh -L"), "{text}");
        }
    }
    std::fs::write(&file, "[page]\nlisten = \"127.0.0.1:8480\"\n").unwrap();
    let output =
        etherpool().args(["supervisor", "--check", "--config"]).arg(&file).output().unwrap();
    let text = text_of(&output);
    assert!(
        output.status.success() && text.contains("Page:        http://127.0.0.1:8480/"),
        "{text}"
    );
}
