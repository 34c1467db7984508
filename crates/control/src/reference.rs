//! References of the configuration files, made from the types that read them: keys, forms and defaults are those of the code, and the
//! texts are its doc comments. They become manual pages and pages of the manual in Markdown.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::boot::BootConfig;
use crate::config::SupervisorConfig;
use crate::node::{ExportConfig, ExportSettings, NodeConfig};

/// Of more words than this the form names none.
const WORDS_MAX: usize = 5;

/// All that a file may say.
pub struct Reference {
    /// The file's name.
    pub file: &'static str,
    /// What it is, in half a sentence.
    pub about: &'static str,
    /// What is to be known of it, a paragraph each.
    pub says: &'static [&'static str],
    /// Its tables; the first one is the file itself.
    pub tables: Vec<Table>,
    /// One that shows what could be said.
    pub example: &'static str,
}

/// A table of a file.
pub struct Table {
    /// As it is written: `[mount]`, `[[interfaces]]`; empty for the file itself.
    pub heading: String,
    /// What it is for.
    pub says: String,
    /// What may be set in it.
    pub settings: Vec<Setting>,
}

/// Something that can be set.
pub struct Setting {
    /// Its key.
    pub key: String,
    /// What its values look like.
    pub form: String,
    /// What holds where it isn't set, as it would be written.
    pub default: Option<String>,
    /// It has to be set wherever its table is.
    pub is_needed: bool,
    /// What it is.
    pub says: String,
}

/// Those of all configuration files.
pub fn references() -> [Reference; 3] {
    let supervisor = Reference {
        file: "supervisor.toml",
        about: "configuration of etherpool's supervisor",
        says: &[
            "`etherpool supervisor --config FILE` reads it when it starts; Debian's unit has it at `/etc/etherpool/supervisor.toml`. Without a file, and \
             for all that a file leaves out, the defaults hold. An unknown key, or a value that can't be meant, is an error that names line and column.",
            "`etherpool supervisor --check` says what it would do on this machine. Paths are absolute.",
        ],
        tables: tables::<SupervisorConfig>("", ""),
        example: include_str!("../../../packaging/examples/supervisor.toml"),
    };
    let mut node = tables::<NodeConfig>("", "");
    let exports = "The settings of exports. At the top level of the file they hold for all exports that don't say otherwise, in an `[[export]]` for that one.";
    let own =
        "A disk, partition, array or file to export: these keys, and all settings of exports.";
    node.splice(1..1, tables::<ExportSettings>("of exports", exports));
    node.extend(tables::<ExportConfig>("[[export]]", own));
    let node = Reference {
        file: "node.toml",
        about: "configuration of etherpool's nodes and targets",
        says: &[
            "`etherpool node --config FILE` and `etherpool target --config FILE` read it, when they start and at SIGHUP. It is taken whole or not at all: what is \
             wrong is told with its line. `--check` says what would be exported.",
            "Every key has a default. An empty file means, for a node: all unused whole disks that are blank or carry etherpool's label. \
             Which interfaces they are exported on has to be named, here or by `-i`.",
        ],
        tables: node,
        example: include_str!("../../../packaging/examples/node.toml"),
    };
    let boot = Reference {
        file: "boot.toml",
        about: "configuration of etherpool's boot server",
        says: &[
            "`etherpool boot serve --config FILE` reads it when it starts, or a supervisor whose `boot` names it. `--check` says what would be served.",
        ],
        tables: tables::<BootConfig>("", ""),
        example: include_str!("../../../packaging/examples/boot.toml"),
    };
    [supervisor, node, boot]
}

impl Reference {
    /// As a page of the manual.
    pub fn markdown(&self) -> String {
        let mut page = format!("# {}\n\n", self.file);
        page.push_str("Made from the sources, as is `man 5 etherpool-");
        page.push_str(&format!("{}`.\n\n{}\n", self.file, self.says.join("\n\n")));
        for table in &self.tables {
            match table.heading.as_str() {
                "" => page.push_str("\n## The file itself\n"),
                heading if heading.starts_with('[') => {
                    page.push_str(&format!("\n## `{heading}`\n"))
                }
                heading => page.push_str(&format!("\n## Settings {heading}\n")),
            }
            if !table.says.is_empty() {
                page.push_str(&format!("\n{}\n", table.says));
            }
            page.push_str("\n| key | value | default | |\n|---|---|---|---|\n");
            for setting in &table.settings {
                let default = match &setting.default {
                    Some(default) => format!("`{default}`"),
                    None if setting.is_needed => "needed".to_owned(),
                    None => String::new(),
                };
                let cells = [
                    format!("`{}`", setting.key),
                    setting.form.clone(),
                    default,
                    setting.says.clone(),
                ];
                let cells = cells.map(|cell| cell.replace('|', "\\|").replace("\n\n", " "));
                page.push_str(&format!("| {} |\n", cells.join(" | ")));
            }
        }
        let example = "[an example](../packaging/examples";
        page.push_str(&format!("\nIn the package, and here: {example}/{}).\n", self.file));
        page
    }
}

/// A doc comment as text: without links into the sources, and with its paragraphs as lines.
pub fn plain(comment: &str) -> String {
    let paragraphs = comment.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
    let text = paragraphs.collect::<Vec<_>>().join("\n\n");
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some((before, behind)) = rest.split_once("[`") {
        plain.push_str(before);
        match behind.split_once("`]") {
            Some((link, after)) => {
                let name = link.rsplit("::").next().unwrap_or(link);
                plain.push_str(&format!("`{name}`"));
                rest = after;
            }
            None => {
                plain.push_str("[`");
                rest = behind;
            }
        }
    }
    plain.push_str(rest);
    plain
}

/// The tables of a type, and of what is in it.
fn tables<T: JsonSchema>(heading: &str, says: &str) -> Vec<Table> {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = settings.for_deserialize().into_generator().into_root_schema_for::<T>().to_value();
    let mut tables = Vec::new();
    gather(&schema, heading, says.to_owned(), &mut tables);
    tables
}

/// A table, and those within it.
fn gather(schema: &Value, heading: &str, says: String, tables: &mut Vec<Table>) {
    let needed = schema["required"].as_array().cloned().unwrap_or_default();
    let at = tables.len();
    tables.push(Table { heading: heading.to_owned(), says, settings: Vec::new() });
    let mut settings = Vec::new();
    for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
        let says = plain(schema["description"].as_str().unwrap_or_default());
        let path = heading.trim_matches(['[', ']']);
        let path = if path.is_empty() || path == "of exports" {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        let default = default_of(schema);
        let schema = some_of(schema);
        if schema["properties"].is_object() {
            gather(schema, &format!("[{path}]"), says, tables);
        } else if schema["items"]["properties"].is_object() {
            gather(&schema["items"], &format!("[[{path}]]"), says, tables);
        } else {
            settings.push(Setting {
                key: key.clone(),
                form: form_of(schema),
                default,
                is_needed: needed.iter().any(|needed| needed == key),
                says: says + &words_of(schema),
            });
        }
    }
    tables[at].settings = settings;
    if tables[at].settings.is_empty() && tables.len() > at + 1 && tables[at].says.is_empty() {
        tables.remove(at);
    }
}

/// Of what may be there or not, what it is if it is there.
fn some_of(schema: &Value) -> &Value {
    let several = schema["anyOf"].as_array().into_iter().flatten();
    let mut there = several.filter(|one| one["type"] != "null");
    match (there.next(), there.next()) {
        (Some(one), None) => one,
        _ => schema,
    }
}

/// What values look like.
fn form_of(schema: &Value) -> String {
    let alternatives = |key: &str| {
        let several = schema[key].as_array().into_iter().flatten();
        let forms = several.filter(|one| one["type"] != "null").map(form_of);
        forms.collect::<Vec<_>>()
    };
    if let Some(word) = schema.get("const") {
        return format!("`{word}`");
    }
    if let Some(words) = schema["enum"].as_array() {
        let words = words.iter().filter(|word| !word.is_null());
        let words: Vec<String> = words.map(|word| format!("`{word}`")).collect();
        return one_of(&words);
    }
    for key in ["oneOf", "anyOf"] {
        let forms = alternatives(key);
        // Each of them is told with what it means.
        if forms.len() > WORDS_MAX {
            return "word".to_owned();
        }
        if !forms.is_empty() {
            return one_of(&forms);
        }
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let forms: Vec<String> = types
        .into_iter()
        .filter(|one| *one != "null")
        .map(|one| match one {
            "integer" | "number" => "number".to_owned(),
            "boolean" => "`true` or `false`".to_owned(),
            "array" => list_of(schema),
            "object" if values_of(schema)["type"] == "array" => "table of lists".to_owned(),
            "object" => "table of tables".to_owned(),
            _ => "text".to_owned(),
        })
        .collect();
    one_of(&forms)
}

fn list_of(schema: &Value) -> String {
    let form = match form_of(&schema["items"]) {
        form if form.is_empty() => "such".to_owned(),
        form => form,
    };
    match schema["maxItems"].as_u64() {
        Some(count) if schema["minItems"] == count => format!("list of {count}, each {form}"),
        _ => format!("list, each {form}"),
    }
}

fn one_of(forms: &[String]) -> String {
    match forms {
        [] => String::new(),
        [one] => one.clone(),
        [before @ .., last] => format!("{} or {last}", before.join(", ")),
    }
}

/// Of a table of names, what each is.
fn values_of(schema: &Value) -> &Value {
    let named = schema["patternProperties"].as_object().and_then(|named| named.values().next());
    named.unwrap_or(&schema["additionalProperties"])
}

/// What each word means, for those who choose one, or several.
fn words_of(schema: &Value) -> String {
    let several = schema["oneOf"].as_array().or_else(|| schema["items"]["oneOf"].as_array());
    let words = several.into_iter().flatten();
    let meant = words.filter_map(|one| Some((one.get("const")?, one["description"].as_str()?)));
    meant.map(|(word, says)| format!(" `{word}`: {}", plain(says))).collect()
}

/// As TOML has it.
fn default_of(schema: &Value) -> Option<String> {
    let default = schema.get("default").filter(|default| !default.is_null())?;
    match default {
        Value::Array(items) if items.is_empty() => None,
        Value::Object(fields) if fields.is_empty() => None,
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(Value::to_string).collect();
            Some(format!("[{}]", items.join(", ")))
        }
        default => Some(default.to_string()),
    }
}
