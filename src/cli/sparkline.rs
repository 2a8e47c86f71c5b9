//! Numbers drawn with block characters.

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One character a value, the largest at full height; a blank where there is none.
pub fn sparkline(values: &[Option<f64>]) -> String {
    let most = values.iter().flatten().copied().fold(0.0, f64::max);
    let level = |value: f64| match most > 0.0 {
        // What is little is still more than nothing.
        true if value > 0.0 => ((value / most * 7.0).ceil() as usize).clamp(1, 7),
        _ => 0,
    };
    values.iter().map(|value| value.map_or(' ', |value| LEVELS[level(value)])).collect()
}

/// A bar of at most `width` characters for a share from 0 to 1, to an eighth of one.
pub fn bar(share: f64, width: usize) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * width as f64 * 8.0).ceil() as usize;
    format!("{}{}", "█".repeat(eighths / 8), PARTS[eighths % 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_at_full_height_and_nothing_at_the_bottom() {
        let values = [Some(0.0), Some(0.01), Some(50.0), Some(100.0), None];
        assert_eq!(sparkline(&values), "▁▂▅█ ");
        assert_eq!(sparkline(&[Some(0.0), Some(0.0)]), "▁▁");
        assert_eq!(sparkline(&[]), "");
    }

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        assert_eq!(bar(0.0, 4), "");
        assert_eq!(bar(0.5, 4), "██");
        assert_eq!(bar(1.5, 4), "████");
        assert_eq!(bar(0.001, 4), "▏");
    }
}
