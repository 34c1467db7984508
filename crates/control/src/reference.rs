//! What doc comments say, for people who don't read the sources.

/// A doc comment as text: without links into the sources, and with its paragraphs as lines.
pub fn plain(comment: &str) -> String {
    let paragraphs = comment.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
    let text = paragraphs.collect::<Vec<_>>().join("\n\n");
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some((before, behind)) = rest.split_once("[`") {
        plain.push_str(before);
        let Some((link, after)) = behind.split_once("`]") else {
            plain.push_str("[`");
            rest = behind;
            continue;
        };
        let name = link.rsplit("::").next().unwrap_or(link);
        plain.push_str(&format!("`{name}`"));
        rest = after;
    }
    plain.push_str(rest);
    plain
}
