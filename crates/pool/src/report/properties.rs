//! Properties of a volume as programs read them: what holds a JSON text stands as the value that it is.
//!
//! The texts come from disks, perhaps another's, and what reads a report gets each of them back as it was, to the byte:
//! people confirm what they were shown, and nobody may make one text pass for another.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// How deep a text may be nested that stands as a value. A report is read as a whole or not at all, to a depth of 128,
/// and one volume's property must not be what keeps it from being read.
const DEPTH_MAX: u32 = 16;

pub fn serialize<S: Serializer>(
    properties: &BTreeMap<String, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let shown = properties.iter().map(|(key, text)| (key, to_value(text)));
    shown.collect::<BTreeMap<_, _>>().serialize(serializer)
}

pub fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let shown = BTreeMap::<String, Value>::deserialize(deserializer)?;
    Ok(shown.into_iter().map(|(key, value)| (key, to_text(value))).collect())
}

fn to_value(text: &str) -> Value {
    let parsed = serde_json::from_str::<Value>(text).ok();
    let same = |value: &Value| {
        let said = || serde_json::to_string(value).unwrap_or_default();
        !value.is_string() && depth(value) <= DEPTH_MAX && said() == text
    };
    parsed.filter(same).unwrap_or_else(|| text.into())
}

fn to_text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        value => value.to_string(),
    }
}

fn depth(value: &Value) -> u32 {
    let below = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(fields) => fields.values().map(depth).max(),
        _ => return 0,
    };
    1 + below.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Shown {
        #[serde(with = "super")]
        properties: BTreeMap<String, String>,
    }

    fn shown(text: &str) -> Value {
        let properties = BTreeMap::from([("key".to_owned(), text.to_owned())]);
        let said = serde_json::to_string(&Shown { properties }).unwrap();
        let read: Shown = serde_json::from_str(&said).unwrap();
        assert_eq!(read.properties["key"], text, "{said}");
        serde_json::from_str::<Value>(&said).unwrap()["properties"]["key"].clone()
    }

    #[test]
    fn a_json_text_stands_as_its_value_and_all_else_as_a_text() {
        assert_eq!(
            shown(r#"{"path":"/srv/v","options":[]}"#),
            json!({"path": "/srv/v", "options": []})
        );
        assert_eq!(shown("true"), json!(true));
        assert_eq!(shown("[1,2.5,null]"), json!([1, 2.5, null]));
        // What would be read back as another text.
        let deep = format!("{}{}", "[".repeat(17), "]".repeat(17));
        let others = ["plain", "\"quoted\"", "{ }", "1.50", "01", "", r#"{"a":1,"a":2}"#, &deep];
        for text in others {
            assert_eq!(shown(text), json!(text));
        }
        assert!(shown(&deep[1..33]).is_array());
    }

    fn nested() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let list = prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from);
            let fields = prop::collection::vec(("[a-c]{0,2}", inner), 0..4);
            prop_oneof![list, fields.prop_map(|fields| fields.into_iter().collect())]
        })
    }

    proptest! {
        #[test]
        fn every_text_is_read_back_as_it_was(text in prop_oneof![
            ".{0,40}".boxed(),
            "[\\[\\]{}\",:0-9a-z .-]{0,24}".boxed(),
            nested().prop_map(|value| value.to_string()).boxed(),
        ]) {
            shown(&text);
        }
    }
}
