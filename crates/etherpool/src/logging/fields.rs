//! What is logged beside its sentence, collected once for both forms of the log. A line that has an id (`event`) is a
//! whole sentence, so what it names isn't named again where only the sentence is read.

use std::fmt::{self, Debug, Write as _};

use block::is_format;
use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// The id of what happened, as `control::catalogue` has it.
const EVENT: &str = "event";
/// What the sentence of such a line names.
const NAMED: [&str; 4] = [EVENT, "pool", "volume", "disk"];

/// A line's sentence and fields.
#[derive(Default)]
pub struct Fields {
    message: String,
    /// In their order.
    pub others: Vec<NamedValue>,
}

/// What stands beside the sentence.
pub struct NamedValue {
    /// Its name.
    pub name: &'static str,
    /// As it is.
    pub value: String,
    /// Text, which stands in quotes where people read it.
    is_text: bool,
}

impl Fields {
    /// Those of a line.
    pub fn of(line: &impl RecordFields) -> Fields {
        let mut fields = Fields::default();
        line.record(&mut fields);
        fields
    }

    /// As people read it in one line, whatever is in it: who has something logged doesn't write lines of his own, nor to
    /// terminals.
    pub fn text(&self) -> String {
        let mut text = self.message.clone();
        let has_id = self.event().is_some();
        for NamedValue { name, value, is_text } in &self.others {
            if has_id && NAMED.contains(name) {
                continue;
            }
            let space = if text.is_empty() { "" } else { " " };
            // Nothing fails that is written to a string.
            let _ = match is_text {
                true => write!(text, "{space}{name}={value:?}"),
                false => write!(text, "{space}{name}={value}"),
            };
        }
        let mut line = String::with_capacity(text.len());
        for c in text.chars() {
            match c.is_control() || is_format(c) {
                true => line.extend(c.escape_default()),
                false => line.push(c),
            }
        }
        line
    }

    /// The id, if it has one.
    fn event(&self) -> Option<&str> {
        let found = self.others.iter().find(|other| other.name == EVENT);
        found.map(|id| id.value.as_str())
    }

    fn take(&mut self, field: &Field, value: String, is_text: bool) {
        match field.name() {
            "message" => self.message = value,
            name => self.others.push(NamedValue { name, value, is_text }),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned(), true);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.take(field, format!("{value:?}"), false);
    }
}

/// Writes a line's fields as text.
pub struct Text;

impl<'writer> FormatFields<'writer> for Text {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        let fields = Fields::of(&fields);
        writer.write_str(&fields.text())?;
        // For `etherpool explain`.
        fields.event().map_or(Ok(()), |id| write!(writer, " [{id}]"))
    }
}
