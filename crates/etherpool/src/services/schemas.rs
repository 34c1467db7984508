//! The schemas of all that the API reads and writes, gathered while its routes are described. A type that is read and
//! written has two where less need be said than is told, as fields with defaults: then the one that is read is called
//! after it and `Request`.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value};

/// Where schemas are in the document.
const PLACE: &str = "/components/schemas";
/// Where those of what is read are, until it is known which of them differ.
const ASKED: &str = "/asked";
/// What begins a reference.
const TO_TOLD: &str = "#/components/schemas/";
const TO_ASKED: &str = "#/asked/";

/// Schemas, as they are gathered.
pub(super) struct Schemas {
    asked: SchemaGenerator,
    told: SchemaGenerator,
}

impl Schemas {
    pub fn new() -> Schemas {
        let at = |place: &str| {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = place.to_owned().into();
                settings.meta_schema = None;
            })
        };
        Schemas {
            asked: at(ASKED).for_deserialize().into_generator(),
            told: at(PLACE).for_serialize().into_generator(),
        }
    }

    /// The schema of what is read as this.
    pub fn asked<T: JsonSchema>(&mut self) -> Value {
        self.asked.subschema_for::<T>().to_value()
    }

    /// The same, by itself and not by reference.
    pub fn asked_whole<T: JsonSchema>(&mut self) -> Value {
        T::json_schema(&mut self.asked).to_value()
    }

    /// The schema of what is written of this.
    pub fn told<T: JsonSchema>(&mut self) -> Value {
        self.told.subschema_for::<T>().to_value()
    }

    /// The same, by itself and not by reference.
    pub fn told_whole<T: JsonSchema>(&mut self) -> Value {
        T::json_schema(&mut self.told).to_value()
    }

    /// Puts them into a document that refers to them.
    pub fn put_into(mut self, document: &mut Value) {
        let (asked, told) = (self.asked.take_definitions(true), self.told.take_definitions(true));
        let own = own_of(&asked, &told);
        let mut schemas = told;
        for (name, mut schema) in asked {
            refer(&mut schema, &own);
            schemas.insert(own_name(&name, &own), schema);
        }
        schemas.sort_keys();
        document["components"]["schemas"] = Value::Object(schemas);
        refer(document, &own);
        say(document);
    }
}

/// Those that are read otherwise than they are written, or have such a one in them.
fn own_of(asked: &Map<String, Value>, told: &Map<String, Value>) -> BTreeSet<String> {
    let mut own = BTreeSet::new();
    loop {
        let differs = |(name, schema): &(&String, &Value)| {
            let mut as_told = (*schema).clone();
            refer(&mut as_told, &own);
            told.get(*name).is_some_and(|told| *told != as_told)
        };
        let found: BTreeSet<String> =
            asked.iter().filter(differs).map(|(name, _)| name.clone()).collect();
        if found.len() == own.len() {
            return own;
        }
        own = found;
    }
}

fn own_name(name: &str, own: &BTreeSet<String>) -> String {
    if own.contains(name) { format!("{name}Request") } else { name.to_owned() }
}

/// Has references to what is read lead to where it is.
fn refer(value: &mut Value, own: &BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str().and_then(|text| text.strip_prefix(TO_ASKED)) {
                    Some(name) if key == "$ref" => {
                        *value = format!("{TO_TOLD}{}", own_name(name, own)).into();
                    }
                    _ => refer(value, own),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| refer(item, own)),
        _ => {}
    }
}

/// Has descriptions say what they say to readers of the sources: without links to these, and without their lines.
fn say(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "description" => {
                        *text = control::reference::plain(text);
                    }
                    value => say(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(say),
        _ => {}
    }
}
