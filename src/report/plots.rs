//! The plots of a run: success with intervals, success by iteration, best-of-K curves, and the
//! training curves of each job.

use super::chart::{self, DotRow, Panel, Point, Series, XAxis};
use super::run_data::{RunData, SweepTable, TrainingCurves};
use scenarios::Split;
use trainer::measure::table::{EvalRow, Interval};

/// A plot with its title and caption.
pub(crate) struct Figure {
    /// The name of its file, without extension.
    pub(crate) file: String,
    pub(crate) title: String,
    pub(crate) caption: String,
    pub(crate) section: FigureSection,
    pub(crate) svg: String,
}

/// The section of the page that a figure belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FigureSection {
    Success,
    Learning,
}

/// Largest number of points of a training curve.
const POINTS: usize = 120;

/// The panels of a job: title, and the columns of `metrics.csv` that the panel shows.
const LEARNING: [(&str, &[&str]); 7] = [
    ("policy loss", &["loss/policy", "loss/held_out"]),
    ("value loss", &["loss/value", "loss/after_value"]),
    ("KL to the reference, nats", &["kl/exact", "kl/k3"]),
    (
        "log-ratio, nats",
        &["log_ratio/p05", "log_ratio/p50", "log_ratio/p95"],
    ),
    ("V of the batch", &["value/min", "value/mean", "value/max"]),
    ("AUC of the value, won against lost", &["value/auc"]),
    (
        "gradient norm",
        &["gradient_norm/policy", "gradient_norm/value"],
    ),
];

/// Returns every plot that there is data for.
pub(crate) fn figures(data: &RunData) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let all: Vec<&EvalRow> = data
        .rows
        .iter()
        .filter(|row| row.task_type.is_none())
        .collect();
    if !all.is_empty() {
        figures.push(success(data, &all)?);
    }
    figures.extend(by_iteration(&all)?);
    if data.table.is_some() || data.sweeps.is_empty() {
        figures.extend(best_of_k(&all)?); // else the curves of the sweep show the same
    }
    for (index, sweep) in data.sweeps.iter().enumerate() {
        let file = if data.sweeps.len() == 1 {
            "sweep".into()
        } else {
            format!("sweep-{}", index + 1)
        };
        figures.push(sweep_curves(sweep, file)?);
    }
    for job in &data.jobs {
        figures.extend(training_curves(job)?);
    }
    Ok(figures)
}

/// Success of one policy at one K on one split.
pub(crate) struct SuccessCell {
    /// The name of the policy at this K, the title of its row.
    pub(crate) title: String,
    pub(crate) k: usize,
    pub(crate) split: Split,
    /// Number of episodes.
    pub(crate) n: usize,
    /// Rate with the ends of its interval, in [0, 1].
    pub(crate) success: (f64, f64, f64),
    /// The rates of single runs, in [0, 1]; may be empty.
    pub(crate) runs: Vec<f64>,
}

fn success(data: &RunData, rows: &[&EvalRow]) -> anyhow::Result<Figure> {
    let cells: Vec<SuccessCell> = rows
        .iter()
        .map(|row| SuccessCell {
            title: data.row_title(row),
            k: row.k,
            split: row.split,
            n: row.n,
            success: (row.success_rate, row.low, row.high),
            runs: Vec::new(),
        })
        .collect();
    Ok(Figure {
        file: "success".into(),
        title: "Success by policy".into(),
        caption: format!("share of games won, {}", intervals(rows)),
        section: FigureSection::Success,
        svg: success_chart(&cells)?,
    })
}

/// Draws success with intervals: a row per title and a column per split.
pub(crate) fn success_chart(cells: &[SuccessCell]) -> anyhow::Result<String> {
    let splits = in_order(cells.iter().map(|cell| cell.split));
    let ks = sorted(cells.iter().map(|cell| cell.k));
    let columns: Vec<String> = splits
        .iter()
        .map(|split| {
            let cell = cells.iter().find(|cell| cell.split == *split);
            format!("{split} (n = {})", cell.map_or(0, |cell| cell.n))
        })
        .collect();
    let groups: Vec<String> = ks.iter().map(|k| format!("K = {k}")).collect();
    let percent = |rate: f64| 100.0 * rate;
    let dots: Vec<DotRow> = in_order(cells.iter().map(|cell| (&cell.title, cell.k)))
        .into_iter()
        .map(|(title, k)| {
            let own = splits.iter().map(|split| {
                cells
                    .iter()
                    .find(|cell| (&cell.title, cell.k, cell.split) == (title, k, *split))
            });
            DotRow {
                name: title.clone(),
                group: ks.iter().position(|other| *other == k).unwrap_or(0),
                dots: own
                    .clone()
                    .map(|cell| {
                        let (rate, low, high) = cell?.success;
                        Some((percent(rate), percent(low), percent(high)))
                    })
                    .collect(),
                runs: own
                    .map(|cell| {
                        let runs = cell.into_iter().flat_map(|cell| &cell.runs);
                        runs.copied().map(percent).collect()
                    })
                    .collect(),
            }
        })
        .collect();
    chart::dots(&columns, &groups, &dots)
}

/// Returns the methods by which the intervals of these rows were computed.
pub(crate) fn intervals(rows: &[&EvalRow]) -> String {
    let names: Vec<&str> = in_order(rows.iter().map(|row| row.interval))
        .into_iter()
        .map(Interval::name)
        .collect();
    format!("{} 95 % intervals", names.join(" or "))
}

/// Splits a policy's name in the table, which is `JOB-i` if the iteration i is above 1.
fn job_and_iteration(policy: &str) -> (&str, usize) {
    let tail = policy
        .rsplit_once('-')
        .and_then(|(name, tail)| Some((name, tail.parse().ok()?)));
    tail.unwrap_or((policy, 1))
}

fn by_iteration(rows: &[&EvalRow]) -> anyhow::Result<Option<Figure>> {
    let greedy: Vec<&EvalRow> = rows.iter().filter(|row| row.k == 1).copied().collect();
    let names = in_order(greedy.iter().map(|row| row.policy.as_str()));
    let later: Vec<(&str, usize)> = names
        .iter()
        .map(|name| job_and_iteration(name))
        .filter(|(job, iteration)| *iteration > 1 && names.contains(job))
        .collect();
    let Some(last) = later.iter().map(|(_, iteration)| *iteration).max() else {
        return Ok(None);
    };
    let jobs = in_order(later.iter().map(|(job, _)| *job));
    let iterations = (1..=last).map(|iteration| iteration.to_string()).collect();
    let splits = in_order(rows.iter().map(|row| row.split));
    let panels = by_split(&splits, "iteration", iterations, |split| {
        jobs.iter()
            .map(|job| iteration_curve(&greedy, job, split, last))
            .collect()
    });
    Ok(Some(Figure {
        file: "iterations".into(),
        title: "By iteration".into(),
        caption: format!("success of each job at K = 1, {}", intervals(rows)),
        section: FigureSection::Success,
        svg: chart::lines(&panels, 2, (560, 300))?,
    }))
}

fn iteration_curve(greedy: &[&EvalRow], job: &str, split: Split, last: usize) -> Series {
    let points = (1..=last).filter_map(|iteration| {
        let name = if iteration == 1 {
            job.to_string()
        } else {
            format!("{job}-{iteration}")
        };
        let row = greedy
            .iter()
            .find(|row| row.policy == name && row.split == split)?;
        Some(rate_of(row, (iteration - 1) as f64))
    });
    Series {
        name: job.into(),
        points: points.collect(),
    }
}

fn best_of_k(rows: &[&EvalRow]) -> anyhow::Result<Option<Figure>> {
    let policies: Vec<&str> = in_order(rows.iter().map(|row| row.policy.as_str()))
        .into_iter()
        .filter(|policy| {
            let own = rows.iter().filter(|row| row.policy == *policy);
            in_order(own.map(|row| row.k)).len() > 1
        })
        .collect();
    if policies.is_empty() {
        return Ok(None);
    }
    let ks = sorted(rows.iter().map(|row| row.k));
    let splits = in_order(rows.iter().map(|row| row.split));
    let categories = ks.iter().map(ToString::to_string).collect();
    let panels = by_split(&splits, "K", categories, |split| {
        policies
            .iter()
            .map(|policy| Series {
                name: (*policy).into(),
                points: rows
                    .iter()
                    .filter(|row| row.policy == *policy && row.split == split)
                    .filter_map(|row| Some(rate_of(row, position(row.k, &ks)?)))
                    .collect(),
            })
            .collect()
    });
    Ok(Some(Figure {
        file: "best-of-k".into(),
        title: "Best of K".into(),
        caption: format!("success by candidates per turn, {}", intervals(rows)),
        section: FigureSection::Success,
        svg: chart::lines(&panels, 2, (560, 320))?,
    }))
}

fn sweep_curves(sweep: &SweepTable, file: String) -> anyhow::Result<Figure> {
    let points = &sweep.points;
    let ks = sorted(points.iter().map(|point| point.k));
    let splits = in_order(points.iter().map(|point| point.split));
    let names = in_order(points.iter().map(|point| point.curve()));
    let categories = ks.iter().map(ToString::to_string).collect();
    let panels = by_split(&splits, "K", categories, |split| {
        names
            .iter()
            .map(|name| Series {
                name: name.clone(),
                points: points
                    .iter()
                    .filter(|point| point.curve() == *name && point.split == split)
                    .filter_map(|point| {
                        let x = position(point.k, &ks)?;
                        Some(rate(x, point.success_rate, point.low, point.high))
                    })
                    .collect(),
            })
            .collect()
    });
    let counts: Vec<String> = splits
        .iter()
        .map(|split| {
            let own = points.iter().filter(|point| point.split == *split);
            let n = own.map(|point| point.n).max().unwrap_or(0);
            format!("n = {n} of {split}")
        })
        .collect();
    Ok(Figure {
        file,
        title: "Best of K by scorer".into(),
        caption: format!(
            "{}; {}; Wilson 95 % intervals",
            sweep.file,
            counts.join(", ")
        ),
        section: FigureSection::Success,
        svg: chart::lines(&panels, 2, (560, 320))?,
    })
}

fn training_curves(job: &TrainingCurves) -> anyhow::Result<Option<Figure>> {
    let updates = job.columns.get("update").map_or(0, Vec::len);
    let per_point = updates.div_ceil(POINTS).max(1);
    let panels: Vec<Panel> = LEARNING
        .iter()
        .filter_map(|(title, columns)| {
            let series: Vec<Series> = columns
                .iter()
                .filter_map(|column| metric_curve(job, column, per_point))
                .collect();
            (!series.is_empty()).then(|| Panel {
                title: (*title).to_string(),
                x_axis: XAxis::Numbers("update"),
                y_label: String::new(),
                series,
            })
        })
        .collect();
    if panels.is_empty() {
        return Ok(None);
    }
    let folder = job
        .iteration
        .map_or(String::new(), |iteration| format!("{iteration}-"));
    let iteration = job
        .iteration
        .filter(|iteration| *iteration > 1)
        .map_or(String::new(), |i| format!(", iteration {i}"));
    let mean = if per_point > 1 {
        format!(", each point the mean of {per_point}")
    } else {
        String::new()
    };
    Ok(Some(Figure {
        file: format!("learning-{folder}{}", job.name),
        title: format!("{}{iteration}", job.name),
        caption: format!("{updates} updates{mean}"),
        section: FigureSection::Learning,
        svg: chart::lines(&panels, 3, (390, 210))?,
    }))
}

/// Returns the curve of one column; `None` if the column is missing or empty.
fn metric_curve(job: &TrainingCurves, column: &str, per_point: usize) -> Option<Series> {
    let values = job.columns.get(column)?;
    let points = means(job.columns.get("update")?, values, per_point);
    let name = column
        .split('/')
        .next_back()
        .unwrap_or(column)
        .replace('_', " ");
    (!points.is_empty()).then_some(Series { name, points })
}

/// Returns the means over groups of `per_point` neighbours. Updates without a value are not
/// counted; if a group has no value, it has no point.
fn means(updates: &[Option<f64>], values: &[Option<f64>], per_point: usize) -> Vec<Point> {
    let pairs: Vec<Option<(f64, f64)>> = updates
        .iter()
        .zip(values)
        .map(|(x, y)| (*x).zip(*y))
        .collect();
    pairs
        .chunks(per_point)
        .filter_map(|group| {
            let known: Vec<(f64, f64)> = group.iter().flatten().copied().collect();
            let count = known.len() as f64;
            let (x, y) = known
                .iter()
                .fold((0.0, 0.0), |(x, y), (a, b)| (x + a, y + b));
            (count > 0.0).then(|| Point {
                x: x / count,
                y: y / count,
                interval: None,
            })
        })
        .collect()
}

/// Returns one panel per split, all with the same categories.
fn by_split(
    splits: &[Split],
    x_label: &'static str,
    categories: Vec<String>,
    series: impl Fn(Split) -> Vec<Series>,
) -> Vec<Panel> {
    splits
        .iter()
        .map(|split| Panel {
            title: split.to_string(),
            x_axis: XAxis::Categories(x_label, categories.clone()),
            y_label: "success %".into(),
            series: series(*split),
        })
        .collect()
}

fn rate_of(row: &EvalRow, x: f64) -> Point {
    rate(x, row.success_rate, row.low, row.high)
}

/// Returns a point in percent.
fn rate(x: f64, rate: f64, low: f64, high: f64) -> Point {
    Point {
        x,
        y: 100.0 * rate,
        interval: Some((100.0 * low, 100.0 * high)),
    }
}

/// Returns the position of K on the x-axis.
fn position(k: usize, ks: &[usize]) -> Option<f64> {
    ks.iter()
        .position(|other| *other == k)
        .map(|place| place as f64)
}

fn sorted(numbers: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut numbers = in_order(numbers);
    numbers.sort_unstable();
    numbers
}

/// Returns the items without duplicates, in the order of their first occurrence.
pub(crate) fn in_order<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for item in items {
        if !found.contains(&item) {
            found.push(item);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (1 + 3)/2 at update ½, and 5 alone at update 2, because update 3 has no number.
    #[test]
    fn a_point_of_a_training_curve_is_a_mean() {
        let updates = [0.0, 1.0, 2.0, 3.0].map(Some);
        let points = means(&updates, &[Some(1.0), Some(3.0), Some(5.0), None], 2);
        let points: Vec<(f64, f64)> = points.iter().map(|point| (point.x, point.y)).collect();
        assert_eq!(points, [(0.5, 2.0), (2.0, 5.0)]);
        assert!(means(&updates, &[None; 4], 2).is_empty());
    }

    #[test]
    fn a_later_iteration_is_read_from_the_name() {
        assert_eq!(job_and_iteration("oreo-3"), ("oreo", 3));
        assert_eq!(job_and_iteration("oreo-turn"), ("oreo-turn", 1));
        assert_eq!(job_and_iteration("sft"), ("sft", 1));
    }
}
