//! Columns for a terminal.

use serde_json::Value;

/// Rows of cells under a head, each column as wide as its widest cell, at most `max` characters.
pub fn render(head: &[&str], rows: &[Vec<String>], max: usize) -> String {
    let width_of = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0).min(max)
    };
    let widths: Vec<usize> = (0..head.len()).map(width_of).collect();
    let line = |cells: Vec<String>| {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| pad(&shorten(cell, *width), *width));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(head.iter().map(|cell| (*cell).to_owned()).collect())];
    lines.push(widths.iter().map(|width| "─".repeat(*width)).collect::<Vec<_>>().join("  "));
    lines.extend(rows.iter().map(|row| line(row.clone())));
    lines.join("\n")
}

/// At most `width` characters, on one line.
pub fn shorten(text: &str, width: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= width {
        return text;
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// A cell of a JSON value; several words of a list.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// The cells of JSON objects, by the paths of their fields.
pub fn rows(items: &Value, fields: &[&str]) -> Vec<Vec<String>> {
    let cell = |item: &Value, field: &&str| text(item.pointer(&format!("/{field}")).unwrap_or(&Value::Null));
    let items = items.as_array().map(Vec::as_slice).unwrap_or_default().iter();
    items.map(|item| fields.iter().map(|field| cell(item, field)).collect()).collect()
}

fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.chars().count())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_long_cells_are_shortened() {
        let rows = vec![vec!["a".into(), "0.41".into()], vec!["a very long title".into(), "0.4".into()]];
        let table = render(&["title", "score"], &rows, 8);
        assert_eq!(table, "title     score\n────────  ─────\na         0.41\na very…   0.4");
    }
}
