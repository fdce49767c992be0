//! Measurements as an SVG: a panel for prompts and one for answers, a bar per measurement, its spread and its limit.
use super::measure::Phase;
use std::fmt::Write as _;

/// One measurement in tokens per second.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub(super) phase: Phase,
    pub(super) name: String,
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// What this machine allows at most, and which measured limit that comes from.
    pub(super) limit: Option<(f64, &'static str)>,
}

// In pixels. Bars lie in `LEFT..RIGHT`; names stand before, nothing behind.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 820.0;
const ROW: f64 = 44.0;
const BAR: f64 = 18.0;
const HEAD: f64 = 84.0;
const PANEL_HEAD: f64 = 30.0;
const PANEL_FOOT: f64 = 58.0;

/// The whole picture.
pub(super) fn svg(bars: &[Bar], title: &str) -> String {
    let panels: Vec<(Phase, Vec<&Bar>)> = [Phase::Prompt, Phase::Decode]
        .into_iter()
        .map(|phase| (phase, bars.iter().filter(|bar| bar.phase == phase).collect()))
        .filter(|(_, bars): &(Phase, Vec<&Bar>)| !bars.is_empty())
        .collect();
    let heights = panels.iter().map(|(_, bars)| panel_height(bars.len()));
    let height = HEAD + heights.sum::<f64>();
    let mut out = Picture::default();
    out.add(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">"
    ));
    out.add(format_args!("<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>"));
    out.text(20.0, 28.0, "start", "16", title);
    legend(&mut out);
    let mut top = HEAD;
    for (phase, bars) in &panels {
        panel(&mut out, *phase, bars, top);
        top += panel_height(bars.len());
    }
    out.add(format_args!("</svg>"));
    out.0
}

#[derive(Default)]
struct Picture(String);

impl Picture {
    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{element}").expect("a string takes everything");
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, size: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" \
             stroke=\"#fff\" stroke-width=\"4\" paint-order=\"stroke\">{text}</text>"
        ));
    }

    fn line(&mut self, [x1, y1, x2, y2]: [f64; 4], color: &str, width: f64) {
        self.add(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{color}\" stroke-width=\"{width}\"/>"
        ));
    }

    fn bar(&mut self, x: f64, y: f64, width: f64) {
        self.add(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{BAR_COLOR}\"/>"
        ));
    }
}

const BAR_COLOR: &str = "#b7410e";
const SPREAD_COLOR: &str = "#222";
const LIMIT_COLOR: &str = "#1f5fa8";
const GRID_COLOR: &str = "#ddd";

fn legend(out: &mut Picture) {
    let y = 56.0;
    out.bar(20.0, y - 13.0, 26.0);
    out.text(52.0, y, "start", "13", "median");
    out.line([120.0, y - 4.0, 146.0, y - 4.0], SPREAD_COLOR, 2.0);
    out.line([120.0, y - 9.0, 120.0, y + 1.0], SPREAD_COLOR, 2.0);
    out.line([146.0, y - 9.0, 146.0, y + 1.0], SPREAD_COLOR, 2.0);
    out.text(152.0, y, "start", "13", "slowest to fastest run");
    out.line([320.0, y - 15.0, 320.0, y + 5.0], LIMIT_COLOR, 3.0);
    out.text(
        328.0,
        y,
        "start",
        "13",
        "limit: as fast as this machine's measured read bandwidth or int8 peak",
    );
}

#[expect(clippy::cast_precision_loss, reason = "a few bars")]
const fn panel_height(bars: usize) -> f64 {
    PANEL_HEAD + ROW * bars as f64 + PANEL_FOOT
}

fn panel(out: &mut Picture, phase: Phase, bars: &[&Bar], top: f64) {
    let heading = match phase {
        Phase::Prompt => "Prompt processing",
        Phase::Decode => "Decode",
    };
    out.text(20.0, top + 16.0, "start", "14", heading);
    let ends = bars.iter().map(|bar| bar.limit.map_or(bar.max, |(limit, _)| limit.max(bar.max)));
    let largest = ends.fold(f64::MIN_POSITIVE, f64::max);
    let tick = tick(largest);
    let x = |rate: f64| LEFT + (RIGHT - LEFT) * rate / (largest * 1.03);
    let (first, bottom) = (top + PANEL_HEAD, top + panel_height(bars.len()) - PANEL_FOOT);
    let mut at = 0.0;
    while at <= largest * 1.03 {
        out.line([x(at), first, x(at), bottom], GRID_COLOR, 1.0);
        out.text(x(at), bottom + 17.0, "middle", "12", &format!("{at}"));
        at += tick;
    }
    out.text(f64::midpoint(LEFT, RIGHT), bottom + 36.0, "middle", "13", "tokens per second");
    let mut y = first;
    for bar in bars {
        row(out, bar, y, &x);
        y += ROW;
    }
    out.line([LEFT, first, LEFT, bottom], SPREAD_COLOR, 1.0);
}

fn row(out: &mut Picture, bar: &Bar, top: f64, x: &impl Fn(f64) -> f64) {
    let y = top + 4.0;
    let middle = y + BAR / 2.0;
    out.text(LEFT - 8.0, middle + 4.0, "end", "13", &bar.name);
    out.bar(LEFT, y, x(bar.median) - LEFT);
    out.line([x(bar.min), middle, x(bar.max), middle], SPREAD_COLOR, 2.0);
    for end in [bar.min, bar.max] {
        out.line([x(end), middle - 5.0, x(end), middle + 5.0], SPREAD_COLOR, 2.0);
    }
    let mut label = format!("{:.1} tokens/s", bar.median);
    if let Some((limit, what)) = bar.limit {
        out.line([x(limit), y - 3.0, x(limit), y + BAR + 3.0], LIMIT_COLOR, 3.0);
        let share = 100.0 * bar.median / limit;
        label += &format!(", {share:.0} % of {limit:.0} tokens/s at the {what}");
    }
    out.text(LEFT + 6.0, y + BAR + 14.0, "start", "12", &label);
}

/// The distance of the axis' ticks: 1, 2 or 5 times a power of ten, four to nine of them.
fn tick(largest: f64) -> f64 {
    let power = 10_f64.powf((largest / 4.0).log10().floor());
    let steps = [5.0, 2.0, 1.0].map(|step| step * power);
    steps.into_iter().find(|step| largest / step >= 4.0).unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (largest, expected) in [(100.0, 20.0), (41.0, 10.0), (3.9, 0.5), (8000.0, 2000.0)] {
            assert_eq!(tick(largest), expected, "{largest}");
        }
    }

    #[test]
    fn a_picture_has_a_bar_and_a_limit_for_each_measurement_and_escapes_names() {
        let bar = |phase, median| Bar {
            phase,
            name: "a<b".to_owned(),
            median,
            min: median,
            max: median,
            limit: Some((2.0 * median, "int8 peak")),
        };
        let text = svg(&[bar(Phase::Prompt, 10.0), bar(Phase::Decode, 2.0)], "model & device");
        assert!(text.starts_with("<svg ") && text.trim_end().ends_with("</svg>"));
        assert!(text.contains("model &amp; device") && !text.contains("a<b"));
        // One of each belongs to the legend.
        assert_eq!(text.matches(BAR_COLOR).count(), 3);
        assert_eq!(text.matches(LIMIT_COLOR).count(), 3);
        assert_eq!(text.matches("50 % of").count(), 2);
    }
}
