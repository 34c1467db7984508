//! The API is as its own description says: an OpenAPI 3.1 document, and answers of a lab that have all that it says
//! and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use blackbox::{Lab, LabOptions, VOLUME, etherpool, text_of, wait_until};
use jsonschema::Validator;
use serde_json::{Value, json};

/// What the OpenAPI Initiative says of such documents (Apache-2.0), as it publishes it: all but what schemas are.
const OPENAPI: &str = include_str!("../openapi-3.1.json");

/// The program's own document.
fn document() -> Value {
    let output = etherpool().arg("openapi").output().unwrap();
    assert!(output.status.success(), "{}", text_of(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// All that isn't as a schema says.
fn faults(validator: &Validator, value: &Value) -> Vec<String> {
    let said =
        |error: jsonschema::ValidationError<'_>| format!("{}: {error}", error.instance_path());
    validator.iter_errors(value).map(said).collect()
}

/// Has each object have no fields but those that are named: the document says that there may be more, for the programs of
/// later versions, and this version has none that it doesn't tell of. What is one of several alternatives of an object is a part
/// of it, and not one by itself.
fn close(schema: &mut Value, is_part: bool) {
    let Value::Object(fields) = schema else { return };
    for (key, value) in &mut *fields {
        match (key.as_str(), value) {
            ("properties" | "patternProperties" | "$defs", Value::Object(named)) => {
                named.values_mut().for_each(|one| close(one, false));
            }
            ("oneOf" | "anyOf" | "allOf", Value::Array(several)) => {
                several.iter_mut().for_each(|one| close(one, true));
            }
            ("prefixItems", Value::Array(items)) => {
                items.iter_mut().for_each(|one| close(one, false));
            }
            ("items" | "additionalProperties", value) => close(value, false),
            _ => {}
        }
    }
    let alternatives = ["oneOf", "anyOf"].iter().any(|key| {
        let several = fields.get(*key).and_then(Value::as_array);
        several.is_some_and(|several| several.iter().any(|one| one["type"] == "object"))
    });
    let is_object = fields.get("type") == Some(&json!("object")) || alternatives;
    let is_open = !fields.contains_key("additionalProperties");
    if is_object && is_open && !is_part {
        fields.insert("unevaluatedProperties".to_owned(), false.into());
    }
}

/// The API's description, to hold answers against.
struct Description {
    document: Value,
    /// The operations whose answers were held against it.
    seen: BTreeSet<String>,
    /// What isn't as it says.
    faults: BTreeSet<String>,
}

impl Description {
    fn new() -> Description {
        let mut document = document();
        let schemas = document["components"]["schemas"].as_object_mut().unwrap();
        schemas.values_mut().for_each(|schema| close(schema, false));
        Description { document, seen: BTreeSet::new(), faults: BTreeSet::new() }
    }

    fn check_by(&mut self, schema: &Value, what: &str, value: &Value) {
        let mut schema = schema.clone();
        close(&mut schema, false);
        let whole = json!({ "allOf": [schema], "components": self.document["components"] });
        let validator = jsonschema::draft202012::new(&whole).unwrap();
        let faults = faults(&validator, value).into_iter();
        self.faults.extend(faults.map(|fault| format!("{what}: {fault}")));
    }

    /// Holds an answer of an operation against what is told of it.
    fn check(&mut self, method: &str, path: &str, status: u16, kind: &str, text: &str) {
        let what = format!("{method} {path}: {status}");
        let operation = self.document["paths"][path][method].clone();
        let mut response = &operation["responses"][status.to_string()];
        if let Some(place) = response["$ref"].as_str() {
            response = self.document.pointer(place.strip_prefix('#').unwrap()).unwrap();
        }
        let bare = kind.split(';').next().unwrap();
        let told = [kind, bare, "*/*"].into_iter().map(|kind| &response["content"][kind]);
        let content = told.into_iter().find(|content| content.is_object()).cloned();
        let content = content.unwrap_or_default();
        assert!(content.is_object(), "{what} isn't told of, as {kind}: {text}");
        let values: Vec<Value> = match (&content["x-item-schema"], bare) {
            (Value::Null, "application/json") => vec![serde_json::from_str(text).unwrap()],
            (Value::Null, _) => vec![text.into()],
            _ => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        };
        assert!(!values.is_empty(), "{what} said nothing");
        let schema = content.get("x-item-schema").unwrap_or(&content["schema"]).clone();
        for value in values {
            self.check_by(&schema, &what, &value);
        }
        if status == 200 {
            self.seen.insert(operation["operationId"].as_str().unwrap().to_owned());
        }
    }

    /// Holds what somebody would send against what is told of the body.
    fn check_body(&mut self, method: &str, path: &str, body: &str) {
        let content = &self.document["paths"][path][method]["requestBody"]["content"];
        let schema = content["application/json"]["schema"].clone();
        assert!(schema.is_object(), "{method} {path} takes no body");
        self.check_by(&schema, path, &serde_json::from_str(body).unwrap());
    }

    /// Holds what a command prints with `--json` against a type.
    fn check_printed(&mut self, name: &str, is_list: bool, printed: &Value) {
        let one = json!({ "$ref": format!("#/components/schemas/{name}") });
        let schema = if is_list { json!({ "type": "array", "items": one }) } else { one };
        self.check_by(&schema, name, printed);
    }
}

/// A lab whose answers are held against the description.
struct Asked {
    lab: Lab,
    description: Description,
}

impl Asked {
    /// Asks by curl; the status and the answer.
    fn ask(
        &mut self,
        method: &str,
        path: &str,
        named: &[&str],
        body: Option<&str>,
    ) -> (u16, String) {
        let mut url = format!("http://etherpool{path}");
        for name in named {
            let (from, to) = (url.find('{').unwrap(), url.find('}').unwrap());
            url.replace_range(from..=to, name);
        }
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "120", "-X", &method.to_uppercase(), "--unix-socket"]);
        command.arg(self.lab.dir().join("supervisor/run/api.sock"));
        command.args(["-w", "\n%{http_code} %{content_type}", &url]);
        if let Some(body) = body {
            command.args(["-d", body]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{url}: {}", text_of(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        let (answer, end) = text.rsplit_once('\n').unwrap();
        let (status, kind) = end.split_once(' ').unwrap();
        let status = status.parse().unwrap();
        self.description.check(method, path, status, kind, answer);
        if let Some(body) = body.filter(|_| status == 200) {
            self.description.check_body(method, path, body);
        }
        (status, answer.to_owned())
    }

    fn get(&mut self, path: &str, named: &[&str]) -> String {
        let (status, answer) = self.ask("get", path, named, None);
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    fn post(&mut self, path: &str, named: &[&str], body: &str) -> String {
        let (status, answer) = self.ask("post", path, named, Some(body));
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }
}

#[test]
fn the_document_is_openapi_and_its_schemas_are_schemas() {
    let document = document();
    let rules: Value = serde_json::from_str(OPENAPI).unwrap();
    let openapi = jsonschema::draft202012::new(&rules).unwrap();
    let found = faults(&openapi, &document);
    assert!(found.is_empty(), "{found:#?}");
    let mut broken = document.clone();
    broken["paths"]["/v2/status"]["get"]["sumary"] = "misspelt".into();
    assert!(!faults(&openapi, &broken).is_empty());

    let paths = document["paths"].as_object().unwrap().values();
    let operations: Vec<&Value> =
        paths.flat_map(|path| path.as_object().unwrap().values()).collect();
    let ids: BTreeSet<&str> =
        operations.iter().map(|one| one["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), operations.len(), "{ids:?}");
    // Programs that were made of it call them so.
    for id in
        ["get_status", "get_pools", "get_pool", "get_pool_boot_copies", "post_pool_volume_mount"]
    {
        assert!(ids.contains(id), "{id}: {ids:?}");
    }

    // What is sent and not known is refused, wherever it stands.
    let bodies = operations.iter().filter_map(|one| one["requestBody"].as_object());
    for body in bodies {
        let mut left = vec![&body["content"]["application/json"]["schema"]];
        let mut seen = BTreeSet::new();
        while let Some(schema) = left.pop() {
            let is_open =
                schema["properties"].is_object() && schema["additionalProperties"] != false;
            assert!(!is_open, "a body may have what nobody knows: {schema:#}");
            left.extend(schema.as_object().into_iter().flat_map(|fields| fields.values()));
            left.extend(schema.as_array().into_iter().flatten());
            let place = schema["$ref"].as_str().filter(|place| seen.insert(*place));
            left.extend(
                place.map(|place| document.pointer(place.strip_prefix('#').unwrap()).unwrap()),
            );
        }
    }

    let schemas = document["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas {
        jsonschema::draft202012::meta::validate(schema)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    // What is referred to is there, and what is there is referred to.
    let text = document.to_string();
    let referred = text.split("\"#/components/schemas/").skip(1);
    let referred: BTreeSet<&str> = referred.map(|rest| rest.split('"').next().unwrap()).collect();
    let present: BTreeSet<&str> = schemas.keys().map(String::as_str).collect();
    assert_eq!(referred, present);
    assert!(!text.contains("#/asked/") && !text.contains("[`"));
}

/// What a type is described as finds a field that has another name, one that is missing and one too many.
#[test]
fn the_description_is_strict_enough() {
    let state = json!({ "total": 3, "present": 2, "lacks_witness": true });
    let changed = |change: fn(&mut serde_json::Map<String, Value>)| {
        let mut description = Description::new();
        let mut state = state.clone();
        change(state.as_object_mut().unwrap());
        description.check_printed("VotesReport", false, &state);
        description.faults.len()
    };
    assert_eq!(changed(|_| {}), 0);
    assert_eq!(changed(|votes| drop(votes.remove("present"))), 1);
    assert_eq!(changed(|votes| drop(votes.insert("absent".to_owned(), 1.into()))), 1);
    assert_eq!(changed(|votes| drop(votes.insert("total".to_owned(), "3".into()))), 1);
    // With a state, which is a part of the same object.
    let disk = json!({ "name": "e1.0", "node": "n1", "device_name": "/dev/sda", "size_bytes": 7, "content": "blank",
        "pool": null, "owner": null, "state": "refused", "why": "worn out" });
    let faults = |change: fn(&mut serde_json::Map<String, Value>)| {
        let mut description = Description::new();
        let mut disk = disk.clone();
        change(disk.as_object_mut().unwrap());
        description.check_printed("DiskReport", false, &disk);
        description.faults.len()
    };
    assert_eq!(faults(|_| {}), 0);
    assert!(faults(|disk| drop(disk.remove("why"))) > 0);
    assert!(faults(|disk| drop(disk.insert("state".to_owned(), "worn".into()))) > 0);
    assert!(faults(|disk| drop(disk.insert("reason".to_owned(), "worn out".into()))) > 0);
}

#[test]
fn a_lab_answers_as_the_description_says() {
    let lab = Lab::up(&LabOptions { size: "512M", bare: true, ..LabOptions::default() });
    let mut asked = Asked { lab, description: Description::new() };
    let (pool, volume) = VOLUME.split_once('/').unwrap();

    // From here on what happens is heard.
    let mut events = Command::new("curl");
    events.args(["-sSN", "--unix-socket"]).arg(asked.lab.dir().join("supervisor/run/api.sock"));
    events.arg("http://etherpool/v2/events").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut events = events.spawn().unwrap();
    let mut heard = BufReader::new(events.stdout.take().unwrap());

    let document: Value = serde_json::from_str(&asked.get("/v2/openapi.json", &[])).unwrap();
    assert_eq!(document, self::document());
    asked.get("/", &[]);
    asked.get("/page/{file}", &["page.js"]);
    for path in [
        "/v2/status",
        "/v2/version",
        "/v2/discover",
        "/v2/disks",
        "/v2/members",
        "/v2/alerts",
        "/metrics",
        "/v2/pools",
    ] {
        asked.get(path, &[]);
    }
    let of_volume = |rest: &str| format!("/v2/pools/{{pool}}/volumes/{{volume}}/{rest}");
    let of_pool = |rest: &str| format!("/v2/pools/{{pool}}/{rest}");
    wait_until("the disks of all machines are there", || {
        let disks = asked.lab.json(&["disk", "list"]);
        disks.as_array().is_some_and(|disks| disks.len() == 6)
    });
    let made = r#"{"name":"cluster","disks":["e1.0","e1.1","e2.0","e2.1","e3.0"]}"#;
    asked.post("/v2/plan/pool", &[], made);
    asked.post("/v2/pools", &[], made);
    let more = r#"{"disks":["e3.1"]}"#;
    asked.post(&of_pool("extend/plan"), &[pool], more);
    asked.post(&of_pool("extend"), &[pool], more);
    let first = r#"{"name":"hyperspace","size":"64M","layout":"mirror:2"}"#;
    asked.post(&of_pool("volumes"), &[pool], first);
    asked.post(&of_volume("mkfs"), &[pool, volume], r#"{"fstype":"ext4"}"#);
    for rest in ["", "/history", "/key", "/destroy", "/moved", "/boot-copies", "/held"] {
        asked.get(&format!("/v2/pools/{{pool}}{rest}"), &[pool]);
    }
    for rest in ["", "/stats"] {
        asked.get(&format!("/v2/pools/{{pool}}/volumes/{{volume}}{rest}"), &[pool, volume]);
    }

    // What changes something, with its plans and previews.
    let second = r#"{"name":"second","size":"64M","layout":"mirror:2"}"#;
    asked.post(&of_pool("plan/volume"), &[pool], second);
    asked.post(&of_pool("volumes"), &[pool], second);
    asked.post(&of_volume("rename"), &[pool, "second"], r#"{"name":"third"}"#);
    let third = [pool, "third"];
    let lines = asked.post(&of_volume("mkfs"), &third, r#"{"fstype":"ext4"}"#);
    assert!(lines.contains("\"result\""), "{lines}");
    asked.post(&of_volume("verify"), &third, "{}");
    asked.post(&of_volume("extend"), &third, r#"{"size":"128M","dry_run":true}"#);
    asked.post(&of_volume("extend"), &third, r#"{"size":134217728,"resizefs":true}"#);
    asked.post(&of_volume("convert"), &third, r#"{"layout":"mirror:3","dry_run":true}"#);
    asked.post(
        &of_volume("reduce"),
        &third,
        r#"{"size_bytes":67108864,"resizefs":true,"dry_run":true}"#,
    );
    asked.post(&of_volume("export"), &third, r#"{"everybody":true,"address":"e77.1"}"#);
    asked.get("/v2/pools/{pool}/volumes/{volume}", &third);
    asked.get("/v2/status", &[]);
    asked.post(&of_volume("unexport"), &third, "{}");
    let (status, _) = asked.ask("post", &of_volume("check"), &third, None);
    assert_eq!(status, 200);
    for rest in ["attach", "detach"] {
        asked.ask("post", &of_volume(rest), &third, None);
    }
    let place = asked.lab.mount();
    let place = place.to_str().unwrap();
    asked.post(
        &of_volume("mount"),
        &[pool, volume],
        &json!({ "path": place, "dry_run": true }).to_string(),
    );
    asked.post(&of_volume("mount"), &[pool, volume], &json!({ "path": place }).to_string());
    asked.get("/v2/status", &[]);
    asked.post(&of_volume("unmount"), &[pool, volume], "{}");
    asked.post(&of_pool("scrub"), &[pool], "{}");
    asked.post(&of_pool("set"), &[pool], r#"{"spare":"disk","scrub_every_secs":null}"#);
    asked.post(&of_pool("rebalance"), &[pool], r#"{"dry_run":true}"#);
    asked.post(&of_pool("offline"), &[pool], r#"{"disks":["e1.0"],"dry_run":true}"#);
    asked.post(&of_pool("offline"), &[pool], r#"{"disks":["e1.0"]}"#);
    asked.get("/v2/pools/{pool}", &[pool]);
    asked.get("/v2/alerts", &[]);
    asked.post(&of_pool("online"), &[pool], r#"{"disks":["e1.0"]}"#);
    asked.post(&of_pool("empty"), &[pool], r#"{"disks":["e1.0"],"dry_run":true}"#);
    asked.post(&of_pool("empty"), &[pool], r#"{"disks":["e1.1"]}"#);
    let jobs: Value = serde_json::from_str(&asked.get("/v2/pools/{pool}", &[pool])).unwrap();
    for job in jobs["jobs"].as_array().unwrap() {
        asked.ask(
            "delete",
            "/v2/pools/{pool}/jobs/{number}",
            &[pool, &job["number"].to_string()],
            None,
        );
    }
    asked.post(
        &of_pool("label"),
        &[pool],
        r#"{"labels":[{"kind":"rack","value":"A","disks":["e1.0"]}]}"#,
    );
    asked.get("/v2/pools", &[]);
    let token: Value =
        serde_json::from_str(&asked.post("/v2/tokens", &[], r#"{"valid_seconds":60}"#)).unwrap();
    asked.get("/v2/members", &[]);
    asked.ask("delete", "/v2/tokens/{id}", &[token["id"].as_str().unwrap()], None);
    asked.ask("post", "/v2/alerts/test", &[], None);
    asked.ask("delete", "/v2/pools/{pool}/volumes/{volume}", &third, Some("{}"));

    // What fails says so in one form, wherever it fails.
    for (method, path, named, body, expected) in [
        ("get", "/v2/pools/{pool}", &["nowhere"][..], None, 404),
        ("get", "/v2/pools/{pool}/import", &["cluster"], None, 400),
        ("post", "/v2/pools/{pool}/volumes", &["cluster"], Some("[]"), 400),
        ("post", "/v2/pools/{pool}/release", &["cluster"], Some("{}"), 403),
        ("post", "/v2/disks/{disk}/reset-epoch", &["nonsense"], Some("{}"), 400),
        ("delete", "/v2/pools/{pool}/jobs/{number}", &["cluster", "first"], None, 400),
        (
            "post",
            "/v2/pools/{pool}/volumes",
            &["cluster"],
            Some(r#"{"name":"hyperspace","size":"64M","layout":"raid0"}"#),
            409,
        ),
        (
            "post",
            "/v2/pools/{pool}/volumes",
            &["cluster"],
            Some(r#"{"name":"vast","size":"64T","layout":"raid0"}"#),
            507,
        ),
    ] {
        let (status, answer) = asked.ask(method, path, named, body);
        assert_eq!(status, expected, "{method} {path}: {answer}");
    }

    // Commands print what the API answers; few add something that they know besides.
    let Asked { lab, description } = &mut asked;
    for (args, name, is_list) in [
        (&["status"][..], "Status", false),
        (&["disk", "list"], "DiskReport", true),
        (&["pool", "list"], "PoolReport", true),
        (&["alert", "list"], "AlertsReport", false),
        (&["aoe", "discover"], "SeenTarget", true),
        (&["volume", "stats", VOLUME], "VolumeStats", false),
        (&["pool", "key", "list", pool], "PoolKeyReport", false),
    ] {
        description.check_printed(name, is_list, &lab.json(args));
    }
    let refused = lab.cli_output(&["--json", "volume", "stats", "cluster/nothing"]);
    let refused: Value = serde_json::from_slice(&refused.stderr).unwrap();
    description.check_printed("ApiError", false, &refused);

    // A command's note is an event, too, so there are some.
    let mut line = String::new();
    let mut kinds = BTreeSet::new();
    wait_until("a disk was taken out of use and in again", || {
        line.clear();
        heard.read_line(&mut line).unwrap();
        asked.description.check("get", "/v2/events", 200, "application/x-ndjson", &line);
        let event: Value = serde_json::from_str(&line).unwrap();
        kinds.insert(event["event"].as_str().unwrap().to_owned());
        ["command", "disk-offline", "disk-online"].iter().all(|kind| kinds.contains(*kind))
    });
    events.kill().unwrap();
    events.wait().unwrap();
    let _ = heard.read_to_string(&mut line);

    asked.post(&of_pool("release"), &[pool], r#"{"confirmed":true,"dry_run":true}"#);
    asked.post(&of_pool("release"), &[pool], r#"{"confirmed":true}"#);
    asked.get("/v2/pools", &[]);
    asked.get("/v2/pools/{pool}/import", &[pool]);
    asked.post(&of_pool("import"), &[pool], "{}");

    // Every operation by which one may look has been held against it.
    let looks = document["paths"].as_object().unwrap().values().filter_map(|path| path.get("get"));
    let looks: BTreeSet<&str> = looks.map(|get| get["operationId"].as_str().unwrap()).collect();
    let unseen: Vec<&&str> =
        looks.iter().filter(|one| !asked.description.seen.contains(**one)).collect();
    assert!(unseen.is_empty(), "{unseen:?}");
    let faults = &asked.description.faults;
    assert!(faults.is_empty(), "{faults:#?}");
}
