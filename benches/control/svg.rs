//! Charts of steps over time, one below the other.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
/// Around the plot: left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (48.0, 56.0, 16.0, 40.0);

/// A line of steps through points of seconds and a number.
pub struct Line {
    pub name: &'static str,
    pub colour: &'static str,
    pub points: Vec<(f64, f64)>,
}

/// A plot's scales.
struct Scale {
    top: f64,
    seconds: f64,
    most: f64,
}

impl Scale {
    fn x(&self, seconds: f64) -> f64 {
        MARGIN.0 + (WIDTH - MARGIN.0 - MARGIN.2) * seconds / self.seconds
    }

    fn y(&self, number: f64) -> f64 {
        let height = HEIGHT - MARGIN.1 - MARGIN.3;
        self.top + MARGIN.1 + height * (1.0 - number / self.most)
    }
}

/// Each chart with its title, a line below that, and its lines.
pub fn chart(charts: &[(&str, String, [Line; 2])]) -> String {
    let height = HEIGHT * charts.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (position, (title, summary, lines)) in charts.iter().enumerate() {
        let points = || lines.iter().flat_map(|line| &line.points);
        let scale = Scale {
            top: HEIGHT * position as f64,
            seconds: points().map(|(at, _)| *at).fold(1.0, f64::max),
            most: points().map(|(_, number)| *number).fold(1.0, f64::max),
        };
        plot(&mut svg, &scale, title, summary, lines);
    }
    svg + "</svg>\n"
}

fn plot(svg: &mut String, scale: &Scale, title: &str, summary: &str, lines: &[Line]) {
    let text = |svg: &mut String, x: f64, y: f64, anchor: &str, text: &str| {
        let _ = writeln!(svg, "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\">{text}</text>");
    };
    text(svg, MARGIN.0, scale.top + 20.0, "start", title);
    text(svg, MARGIN.0, scale.top + 38.0, "start", summary);
    for tick in 0..=4 {
        let number = scale.most * f64::from(tick) / 4.0;
        let y = scale.y(number);
        let (left, right) = (scale.x(0.0), scale.x(scale.seconds));
        let _ = writeln!(svg, "<path d=\"M{left:.0} {y:.0}H{right:.0}\" stroke=\"#e5e5e5\"/>");
        text(svg, left - 6.0, y + 4.0, "end", &format!("{number:.0}"));
        let seconds = scale.seconds * f64::from(tick) / 4.0;
        text(svg, scale.x(seconds), scale.y(0.0) + 18.0, "middle", &format!("{seconds:.0} s"));
    }
    for (position, line) in lines.iter().enumerate() {
        let mut path = String::new();
        for (at, number) in &line.points {
            let (x, y) = (scale.x(*at), scale.y(*number));
            let _ = if path.is_empty() { write!(path, "M{x:.1} {y:.1}") } else { write!(path, "H{x:.1}V{y:.1}") };
        }
        let Line { name, colour, .. } = line;
        let _ = writeln!(svg, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
        let x = WIDTH - MARGIN.2 - 220.0 + 110.0 * position as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.0}\" y=\"{:.0}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
            scale.top + 11.0
        );
        text(svg, x + 14.0, scale.top + 20.0, "start", name);
    }
}
