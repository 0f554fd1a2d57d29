//! Which plots a run has: success with intervals, learning curves of each job, best-of-K curves, success by iteration.

use super::chart::{self, Across, DotRow, Panel, Point, Series};
use super::gather::{Found, Lesson, Sweep, SweepRow};
use scenarios::Split;
use trainer::measure::evaluate::{Interval, Row};

/// A plot with the words around it.
pub(crate) struct Figure {
    /// The name of its file, without an ending.
    pub(crate) file: String,
    pub(crate) title: String,
    pub(crate) caption: String,
    pub(crate) about: About,
    pub(crate) svg: String,
}

/// Where in the page a figure belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    Success,
    Learning,
}

/// Most points of a learning curve.
const POINTS: usize = 120;

/// What is drawn of a job: title, and columns of `metrics.csv` in one panel.
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

/// Every plot that there is something for.
pub(crate) fn figures(found: &Found) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let all: Vec<&Row> = found
        .rows
        .iter()
        .filter(|row| row.task_type.is_none())
        .collect();
    if !all.is_empty() {
        figures.push(success(found, &all)?);
    }
    figures.extend(by_iteration(&all)?);
    if found.table.is_some() || found.labs.is_empty() {
        figures.extend(best_of_k(&all)?); // a lab's own curves tell it all
    }
    for (index, lab) in found.labs.iter().enumerate() {
        figures.push(lab_curves(lab, index, found.labs.len())?);
    }
    for job in &found.jobs {
        figures.extend(learning(job)?);
    }
    Ok(figures)
}

fn success(found: &Found, rows: &[&Row]) -> anyhow::Result<Figure> {
    let splits = in_order(rows.iter().map(|row| row.split));
    let mut ks = in_order(rows.iter().map(|row| row.k));
    ks.sort_unstable();
    let lines = in_order(rows.iter().map(|row| (&row.policy, row.k)));
    let percent = |row: &&Row| (100.0 * row.success_rate, 100.0 * row.low, 100.0 * row.high);
    let dot_row = |(policy, k): &(&String, usize)| {
        let of = |split: &Split| {
            rows.iter()
                .find(|row| (&row.policy, row.k, row.split) == (policy, *k, *split))
        };
        let first = rows.iter().find(|row| (&row.policy, row.k) == (policy, *k));
        DotRow {
            name: first.map_or(String::new(), |row| found.row_title(row)),
            group: ks.iter().position(|other| other == k).unwrap_or(0),
            dots: splits.iter().map(|split| of(split).map(percent)).collect(),
        }
    };
    let games = |split: &Split| {
        rows.iter()
            .find(|row| row.split == *split)
            .map_or(0, |row| row.n)
    };
    let columns: Vec<String> = splits
        .iter()
        .map(|split| format!("{split} (n = {})", games(split)))
        .collect();
    let groups: Vec<String> = ks.iter().map(|k| format!("K = {k}")).collect();
    Ok(Figure {
        file: "success".into(),
        title: "Success by policy".into(),
        caption: format!("share of games won, {}", intervals(rows)),
        about: About::Success,
        svg: chart::dots(
            &columns,
            &groups,
            &lines.iter().map(dot_row).collect::<Vec<_>>(),
        )?,
    })
}

/// How the intervals of these rows were found.
pub(crate) fn intervals(rows: &[&Row]) -> String {
    let names: Vec<&str> = in_order(rows.iter().map(|row| row.interval))
        .into_iter()
        .map(Interval::name)
        .collect();
    format!("{} 95 % intervals", names.join(" or "))
}

/// A job of iteration i > 1 is called NAME-i in the table.
fn lesson_and_iteration(policy: &str) -> (&str, usize) {
    let tail = policy
        .rsplit_once('-')
        .and_then(|(name, tail)| Some((name, tail.parse().ok()?)));
    tail.unwrap_or((policy, 1))
}

fn by_iteration(rows: &[&Row]) -> anyhow::Result<Option<Figure>> {
    let greedy: Vec<&&Row> = rows.iter().filter(|row| row.k == 1).collect();
    let names = in_order(greedy.iter().map(|row| row.policy.as_str()));
    let is_later = |name: &&str| {
        let (job, iteration) = lesson_and_iteration(name);
        iteration > 1 && names.contains(&job)
    };
    let Some(last) = names
        .iter()
        .filter(|name| is_later(name))
        .map(|name| lesson_and_iteration(name).1)
        .max()
    else {
        return Ok(None);
    };
    let jobs = in_order(
        names
            .iter()
            .filter(|name| is_later(name))
            .map(|name| lesson_and_iteration(name).0),
    );
    let places = (1..=last).map(|iteration| iteration.to_string()).collect();
    let line = |job: &&str, split: Split| {
        let points = (1..=last).filter_map(|iteration| {
            let name = if iteration == 1 {
                (*job).to_string()
            } else {
                format!("{job}-{iteration}")
            };
            let row = greedy
                .iter()
                .find(|row| row.policy == name && row.split == split)?;
            Some(rate(
                (iteration - 1) as f64,
                row.success_rate,
                row.low,
                row.high,
            ))
        });
        Series {
            name: (*job).into(),
            points: points.collect(),
        }
    };
    let panels = by_split(
        &in_order(rows.iter().map(|row| row.split)),
        "iteration",
        places,
        |split| jobs.iter().map(|job| line(job, split)).collect(),
    );
    Ok(Some(Figure {
        file: "iterations".into(),
        title: "By iteration".into(),
        caption: format!("success of each job at K = 1, {}", intervals(rows)),
        about: About::Success,
        svg: chart::lines(&panels, 2, (560, 300))?,
    }))
}

fn best_of_k(rows: &[&Row]) -> anyhow::Result<Option<Figure>> {
    let has_curve = |policy: &&str| {
        in_order(
            rows.iter()
                .filter(|row| row.policy == *policy)
                .map(|row| row.k),
        )
        .len()
            > 1
    };
    let policies: Vec<&str> = in_order(rows.iter().map(|row| row.policy.as_str()))
        .into_iter()
        .filter(has_curve)
        .collect();
    if policies.is_empty() {
        return Ok(None);
    }
    let curve = |policy: &&str, split: Split, ks: &[usize]| {
        let of = rows
            .iter()
            .filter(|row| row.policy == *policy && row.split == split);
        Series {
            name: (*policy).into(),
            points: of
                .filter_map(|row| {
                    Some(rate(place(row.k, ks)?, row.success_rate, row.low, row.high))
                })
                .collect(),
        }
    };
    let (ks, splits) = (
        sorted(rows.iter().map(|row| row.k)),
        in_order(rows.iter().map(|row| row.split)),
    );
    let places = ks.iter().map(ToString::to_string).collect();
    let panels = by_split(&splits, "K", places, |split| {
        policies
            .iter()
            .map(|policy| curve(policy, split, &ks))
            .collect()
    });
    Ok(Some(Figure {
        file: "best-of-k".into(),
        title: "Best of K".into(),
        caption: format!("success by candidates a turn, {}", intervals(rows)),
        about: About::Success,
        svg: chart::lines(&panels, 2, (560, 320))?,
    }))
}

fn lab_curves(lab: &Sweep, index: usize, labs: usize) -> anyhow::Result<Figure> {
    let (ks, splits) = (
        sorted(lab.rows.iter().map(|row| row.k)),
        in_order(lab.rows.iter().map(|row| row.split)),
    );
    let name = |row: &SweepRow| match &row.policy {
        Some(policy) => format!("{policy}, {}", row.scorer),
        None => row.scorer.clone(),
    };
    let names = in_order(lab.rows.iter().map(name));
    let curve = |name_of: &String, split: Split| {
        let of = lab
            .rows
            .iter()
            .filter(|row| name(row) == *name_of && row.split == split);
        let point = |row: &SweepRow| {
            Some(rate(
                place(row.k, &ks)?,
                row.success_rate,
                row.low,
                row.high,
            ))
        };
        Series {
            name: name_of.clone(),
            points: of.filter_map(point).collect(),
        }
    };
    let places = ks.iter().map(ToString::to_string).collect();
    let panels = by_split(&splits, "K", places, |split| {
        names.iter().map(|name| curve(name, split)).collect()
    });
    let games = |split: &Split| {
        lab.rows
            .iter()
            .filter(|row| row.split == *split)
            .map(|row| row.n)
            .max()
            .unwrap_or(0)
    };
    let counts: Vec<String> = splits
        .iter()
        .map(|split| format!("n = {} of {split}", games(split)))
        .collect();
    Ok(Figure {
        file: if labs == 1 {
            "lab".into()
        } else {
            format!("lab-{}", index + 1)
        },
        title: "Best of K by what it is chosen by".into(),
        caption: format!("{}; {}; Wilson 95 % intervals", lab.file, counts.join(", ")),
        about: About::Success,
        svg: chart::lines(&panels, 2, (560, 320))?,
    })
}

fn learning(job: &Lesson) -> anyhow::Result<Option<Figure>> {
    let updates = job.columns.get("update").map_or(0, Vec::len);
    let each = updates.div_ceil(POINTS).max(1);
    let panel = |(title, columns): &(&str, &[&str])| {
        let line = |column: &&str| {
            let points = means(job.columns.get("update")?, job.columns.get(*column)?, each);
            let name = column
                .split('/')
                .next_back()
                .unwrap_or(column)
                .replace('_', " ");
            (!points.is_empty()).then_some(Series { name, points })
        };
        let series: Vec<Series> = columns.iter().filter_map(line).collect();
        let title = (*title).to_string();
        (!series.is_empty()).then(|| Panel {
            title,
            across: Across::Numbers("update"),
            up: String::new(),
            series,
        })
    };
    let panels: Vec<Panel> = LEARNING.iter().filter_map(panel).collect();
    if panels.is_empty() {
        return Ok(None);
    }
    let folder = job
        .iteration
        .map_or(String::new(), |iteration| format!("{iteration}-"));
    let round = job
        .iteration
        .filter(|iteration| *iteration > 1)
        .map_or(String::new(), |i| format!(", iteration {i}"));
    let mean = if each > 1 {
        format!(", each point the mean of {each}")
    } else {
        String::new()
    };
    Ok(Some(Figure {
        file: format!("learning-{folder}{}", job.name),
        title: format!("{}{round}", job.name),
        caption: format!("{updates} updates{mean}"),
        about: About::Learning,
        svg: chart::lines(&panels, 3, (390, 210))?,
    }))
}

/// RunOptions of so many neighbours; those without a number count for nothing.
fn means(updates: &[Option<f64>], values: &[Option<f64>], each: usize) -> Vec<Point> {
    let pairs: Vec<Option<(f64, f64)>> = updates
        .iter()
        .zip(values)
        .map(|(x, y)| (*x).zip(*y))
        .collect();
    let mean = |chunk: &[Option<(f64, f64)>]| {
        let known: Vec<(f64, f64)> = chunk.iter().flatten().copied().collect();
        let (count, (x, y)) = (
            known.len() as f64,
            known
                .iter()
                .fold((0.0, 0.0), |(x, y), (a, b)| (x + a, y + b)),
        );
        (count > 0.0).then(|| Point {
            x: x / count,
            y: y / count,
            interval: None,
        })
    };
    pairs.chunks(each).filter_map(mean).collect()
}

fn by_split(
    splits: &[Split],
    across: &'static str,
    places: Vec<String>,
    series: impl Fn(Split) -> Vec<Series>,
) -> Vec<Panel> {
    let panel = |split: &Split| Panel {
        title: split.to_string(),
        across: Across::Places(across, places.clone()),
        up: "success %".into(),
        series: series(*split),
    };
    splits.iter().map(panel).collect()
}

fn rate(x: f64, rate: f64, low: f64, high: f64) -> Point {
    Point {
        x,
        y: 100.0 * rate,
        interval: Some((100.0 * low, 100.0 * high)),
    }
}

fn place(k: usize, ks: &[usize]) -> Option<f64> {
    ks.iter()
        .position(|other| *other == k)
        .map(|place| place as f64)
}

fn sorted(numbers: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut numbers = in_order(numbers);
    numbers.sort_unstable();
    numbers
}

/// Each once, in the order in which they came.
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

    /// (1 + 3)/2 at update ½, 5 alone at update 2: update 3 has no number.
    #[test]
    fn a_learning_curve_is_made_of_means() {
        let updates = [0.0, 1.0, 2.0, 3.0].map(Some);
        let points = means(&updates, &[Some(1.0), Some(3.0), Some(5.0), None], 2);
        let points: Vec<(f64, f64)> = points.iter().map(|point| (point.x, point.y)).collect();
        assert_eq!(points, [(0.5, 2.0), (2.0, 5.0)]);
        assert!(means(&updates, &[None; 4], 2).is_empty());
    }

    #[test]
    fn a_later_iteration_is_read_from_the_name() {
        assert_eq!(lesson_and_iteration("oreo-3"), ("oreo", 3));
        assert_eq!(lesson_and_iteration("oreo-turn"), ("oreo-turn", 1));
        assert_eq!(lesson_and_iteration("sft"), ("sft", 1));
    }
}
