//! The form of answers in which the former version, 0.1, reads and writes them, while machines are upgraded one by one.
//!
//! Its routes are under `/v1`. What is asked for is the same; in answers a state was an object called by `is`, with what
//! went with it inside, a volume had none, and its properties were texts of JSON. A supervisor answers a former command
//! in that form, and a command of ours reads what a former supervisor answers. Objects are known by fields that no others
//! have, wherever they stand in an answer. All of this goes with the next version.

use serde_json::{Map, Value, json};

/// Where the operations are.
const PREFIX: &str = "/v2/";
const FORMER_PREFIX: &str = "/v1/";

/// How a supervisor begins to say that it has no such operation, as a former one does of all that are ours.
pub const NO_OPERATION: &str = "the API has no such operation";

/// The path of an operation without its version.
pub fn operation(path: &str) -> &str {
    let of = |prefix| path.strip_prefix(prefix);
    of(PREFIX).or_else(|| of(FORMER_PREFIX)).unwrap_or(path)
}

/// The same operation's path in the former version.
pub fn former_path(path: &str) -> Option<String> {
    path.strip_prefix(PREFIX).map(|operation| format!("{FORMER_PREFIX}{operation}"))
}

/// Whose state it is.
#[derive(Clone, Copy, PartialEq)]
enum Whose {
    Pool,
    Volume,
    /// A disk's or a job's.
    Other,
}

fn whose(fields: &Map<String, Value>) -> Option<Whose> {
    let has = |names: &[&str]| names.iter().all(|name| fields.contains_key(*name));
    if has(&["votes", "lease_ok"]) || fields.get("event").is_some_and(|event| event == "pool-state")
    {
        return Some(Whose::Pool);
    }
    if has(&["properties", "replayed"]) {
        return Some(Whose::Volume);
    }
    let (disk, member, job) =
        (["content", "device_name"], ["checksum_errors", "holds_vote"], ["left_bytes", "kind"]);
    [disk, member, job].iter().any(|names| has(names)).then_some(Whose::Other)
}

/// Brings an answer into the form in which the former version reads it.
pub fn to_former(answer: &mut Value) {
    each_below(answer, to_former);
    let Value::Object(fields) = answer else { return };
    if let Some(Value::Object(witness)) = fields.get_mut("witness")
        && let Some(word) = witness.remove("state")
    {
        witness.insert("is".into(), word);
    }
    let Some(whose) = whose(fields) else { return };
    let Some(word) = fields.remove("state") else { return };
    let why = fields.remove("why");
    let state = match (whose, word.as_str().unwrap_or_default()) {
        (Whose::Volume, word) => {
            let named = if word == "incomplete" { "lacks" } else { "suspended" };
            fields.insert("suspended".into(), Value::Null);
            fields.extend(why.map(|why| (named.to_owned(), why)));
            let properties = fields.get_mut("properties").and_then(Value::as_object_mut);
            for value in properties.into_iter().flat_map(Map::values_mut) {
                if !value.is_string() {
                    *value = value.to_string().into();
                }
            }
            return;
        }
        (Whose::Pool, "foreign") => {
            let owner = fields.get("owner").cloned().unwrap_or("another supervisor".into());
            let epoch = fields.get("epoch").cloned().unwrap_or(0.into());
            json!({ "is": word, "owner": owner, "epoch": epoch })
        }
        (Whose::Pool, "suspended") => json!({ "is": word, "reason": why }),
        (Whose::Pool, "incomplete") => json!({ "is": word, "missing": why }),
        (_, _) if why.is_some() => json!({ "is": word, "why": why }),
        (_, _) => json!({ "is": word }),
    };
    fields.insert("state".into(), state);
}

/// Brings an answer of the former version into ours.
pub fn from_former(answer: &mut Value) {
    each_below(answer, from_former);
    let Value::Object(fields) = answer else { return };
    if let Some(word) = fields.remove("is") {
        let why = ["reason", "missing"].into_iter().find_map(|name| fields.remove(name));
        fields.insert("state".into(), word);
        fields.extend(why.map(|why| ("why".to_owned(), why)));
    }
    if let Some(Value::Object(state)) = fields.get_mut("state") {
        let (word, why) = (state.remove("state"), state.remove("why"));
        fields.insert("state".into(), word.unwrap_or_default());
        fields.extend(why.map(|why| ("why".to_owned(), why)));
    }
    if whose(fields) == Some(Whose::Volume) && !fields.contains_key("state") {
        let suspended = fields.remove("suspended").filter(|why| !why.is_null());
        let lacks = fields.remove("lacks");
        let word = match fields.get("degraded") {
            _ if suspended.is_some() => "suspended",
            _ if lacks.is_some() => "incomplete",
            Some(Value::Bool(true)) => "degraded",
            _ => "online",
        };
        fields.insert("state".into(), word.into());
        fields.extend(suspended.or(lacks).map(|why| ("why".to_owned(), why)));
    }
}

fn each_below(value: &mut Value, change: fn(&mut Value)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(change),
        // What others put there is nothing of ours.
        Value::Object(fields) => {
            let of_others = ["properties", "labels", "survives_labels"];
            let ours = fields.iter_mut().filter(|(name, _)| !of_others.contains(&name.as_str()));
            ours.for_each(|(_, value)| change(value));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What a supervisor of version 0.1.0 answered, but for fields that no state is in.
    fn former() -> Value {
        json!([
            {
                "name": "p", "state": {"is": "suspended", "reason": "1 of 3 votes"}, "owner": "a", "epoch": 3,
                "votes": {"total": 3, "present": 1}, "lease_ok": false,
                "disks": [
                    {"name": "e1.0", "state": {"is": "usable"}, "checksum_errors": 0, "holds_vote": true},
                    {"name": "e2.0", "state": {"is": "refused", "why": "a copy"}, "checksum_errors": 0, "holds_vote": false},
                ],
                "jobs": [{"kind": "scrub", "left_bytes": 5, "state": {"is": "waiting", "why": "for e1.0"}}],
                "volumes": [
                    {
                        "name": "v", "properties": {"mount": "{\"path\":\"/srv/v\",\"options\":[]}", "note": "plain"},
                        "degraded": true, "suspended": null, "replayed": {"records": 0, "blocks": 0},
                    },
                    {
                        "name": "w", "properties": {}, "degraded": true, "suspended": "no disk",
                        "replayed": {"records": 0, "blocks": 0},
                    },
                    {
                        "name": "x", "properties": {"device": "true"}, "degraded": false, "suspended": null,
                        "lacks": "e2.0", "replayed": {"records": 0, "blocks": 0},
                    },
                ],
            },
            {
                "name": "q", "state": {"is": "foreign", "owner": "b", "epoch": 7}, "owner": "b", "epoch": 7,
                "votes": {"total": 3, "present": 3}, "lease_ok": false,
            },
            {
                "name": "r", "state": {"is": "incomplete", "missing": "e9.0"}, "owner": "a", "epoch": 1,
                "votes": {"total": 3, "present": 1}, "lease_ok": false,
                "witness": {"is": "lacking", "why": "nobody wants one"},
            },
            {"name": "e7.0", "content": "blank", "device_name": "/dev/sdb", "state": {"is": "free"}},
            {"event": "pool-state", "pool": "p", "state": {"is": "incomplete", "missing": "e9.0"}},
            {"fsck": {"witness": {"is": "kept", "host": "a", "directory": "/w", "bytes": 5}}},
            // Not ours to change.
            {"name": "service", "state": "running", "why": "x"},
            {"labels": {"is": "blue"}, "survives_labels": {"is": 1}},
        ])
    }

    #[test]
    fn a_former_answer_is_read_as_one_of_ours_and_back() {
        let mut ours = former();
        from_former(&mut ours);
        let [pool, foreign, incomplete, ..] = &ours.as_array().unwrap()[..] else { panic!() };
        let said = |value: &Value| (value["state"].clone(), value["why"].clone());
        assert_eq!(said(pool), (json!("suspended"), json!("1 of 3 votes")));
        assert_eq!(said(&pool["disks"][0]), (json!("usable"), Value::Null));
        assert_eq!(said(&pool["disks"][1]), (json!("refused"), json!("a copy")));
        assert_eq!(said(&pool["jobs"][0]), (json!("waiting"), json!("for e1.0")));
        assert_eq!(said(&pool["volumes"][0]), (json!("degraded"), Value::Null));
        assert_eq!(said(&pool["volumes"][1]), (json!("suspended"), json!("no disk")));
        assert_eq!(said(&pool["volumes"][2]), (json!("incomplete"), json!("e2.0")));
        assert_eq!(said(foreign), (json!("foreign"), Value::Null));
        assert_eq!(said(incomplete), (json!("incomplete"), json!("e9.0")));
        assert_eq!(said(&incomplete["witness"]), (json!("lacking"), json!("nobody wants one")));
        assert_eq!(ours.to_string().matches("\"is\"").count(), 2, "{ours}");

        // As our own supervisor says it, properties are values.
        let mut again = ours.clone();
        again[0]["volumes"][0]["properties"]["mount"] = json!({"path": "/srv/v", "options": []});
        again[0]["volumes"][2]["properties"]["device"] = json!(true);
        to_former(&mut again);
        assert_eq!(again, former());
        let before = ours.clone();
        from_former(&mut ours);
        assert_eq!(ours, before, "ours is read as it is");
    }

    #[test]
    fn an_operation_is_the_same_in_both_versions() {
        assert_eq!(operation("/v2/pools/p"), "pools/p");
        assert_eq!(operation("/v1/pools/p"), "pools/p");
        assert_eq!(former_path("/v2/status").as_deref(), Some("/v1/status"));
        assert_eq!(former_path("/metrics"), None);
    }
}
