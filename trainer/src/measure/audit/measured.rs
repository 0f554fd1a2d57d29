//! Checks of the measured episodes: protocol, successes, counts and checkpoint selection.

use super::evidence::MeasuredEpisodes;
use super::findings::{Audit, FindingKind};
use crate::measure::card::Card;
use scenarios::{Outcome, Protocol, Scorer, Split, Suite, Trajectory};
use std::collections::{BTreeMap, BTreeSet};

/// Checks for protocols that give the policy more than its observations, and for stores that mix
/// policies or protocols.
pub(super) fn check_protocols(measured: &MeasuredEpisodes<'_>, audit: &mut Audit) {
    let MeasuredEpisodes {
        name,
        episodes,
        card,
    } = measured;
    let n = episodes.len();
    report_protocols(
        measured,
        FindingKind::AdmissibleShown,
        |protocol| protocol.admissible_shown,
        "the admissible commands were shown",
        audit,
    );
    report_protocols(
        measured,
        FindingKind::OracleScorer,
        |protocol| {
            protocol.scorer == Scorer::Oracle && (protocol.best_of > 1 || protocol.search.is_some())
        },
        "a clairvoyant oracle, which reads the hidden state of the world, selected the candidates",
        audit,
    );
    report_protocols(
        measured,
        FindingKind::ExpertScorer,
        |protocol| protocol.scorer == Scorer::Expert && protocol.best_of > 1,
        "the expert selected the candidates, so the result is a bound and not that of the policy",
        audit,
    );
    report_protocols(
        measured,
        FindingKind::WorldCopies,
        |protocol| protocol.search.is_some(),
        "a search executed commands in copies of the world",
        audit,
    );
    let policies: BTreeSet<_> = episodes
        .iter()
        .map(|t| (t.policy.as_str(), t.value_policy.as_deref()))
        .collect();
    let mut protocols: Vec<&Protocol> = Vec::new();
    for episode in *episodes {
        if !protocols.contains(&&episode.protocol) {
            protocols.push(&episode.protocol);
        }
    }
    if policies.len() > 1 || protocols.len() > 1 {
        audit.found(
            FindingKind::MixedStore,
            format!(
                "{name}: the {n} episodes have {} policies and {} protocols, not one of each",
                policies.len(),
                protocols.len()
            ),
        );
    }
    let Some(card) = card else { return };
    let matching = episodes
        .iter()
        .filter(|t| {
            t.policy == card.policy_hash
                && t.value_policy == card.value_hash
                && t.protocol == card.protocol
        })
        .count();
    if matching < n || n != card.episodes {
        audit.found(
            FindingKind::CardDisagrees,
            format!(
                "{name}: {matching} of {n} episodes have the card's policy and protocol, and the \
                 card counts {}",
                card.episodes
            ),
        );
    }
}

/// Adds a finding if the protocol of an episode satisfies a condition.
fn report_protocols(
    measured: &MeasuredEpisodes<'_>,
    kind: FindingKind,
    is_found: impl Fn(&Protocol) -> bool,
    what: &str,
    audit: &mut Audit,
) {
    let n = measured.episodes.len();
    let count = measured
        .episodes
        .iter()
        .filter(|episode| is_found(&episode.protocol))
        .count();
    if count > 0 {
        audit.found(
            kind,
            format!("{}: {what} in {count} of {n} episodes", measured.name),
        );
    }
}

/// Checks for rewards that do not match the outcome, and for successes that the rest of the episode
/// contradicts: the environment failed, the last turn has no command, or the environment answered
/// that nothing happened.
pub(super) fn check_successes(measured: &MeasuredEpisodes<'_>, audit: &mut Audit) {
    report_successes(
        measured,
        |t| (t.reward - t.outcome.reward()).abs() > f64::EPSILON,
        "have a reward that does not match their outcome",
        audit,
    );
    report_successes(
        measured,
        |t| t.is_won() && t.failure.is_some(),
        "are won but record a failure of the world",
        audit,
    );
    report_successes(
        measured,
        |t| t.is_won() && t.turns.last().is_none_or(|turn| turn.action.is_none()),
        "are won without a command in the last turn",
        audit,
    );
    report_successes(
        measured,
        |t| t.is_won() && t.last_observation.trim() == "Nothing happens.",
        "are won by a command that the world answered with \"Nothing happens.\"",
        audit,
    );
}

/// Adds a finding if an episode satisfies a condition.
fn report_successes(
    measured: &MeasuredEpisodes<'_>,
    is_doubtful: impl Fn(&Trajectory) -> bool,
    what: &str,
    audit: &mut Audit,
) {
    let MeasuredEpisodes { name, episodes, .. } = measured;
    let count = episodes
        .iter()
        .filter(|episode| is_doubtful(episode))
        .count();
    if count > 0 {
        let n = episodes.len();
        let won = episodes.iter().filter(|episode| episode.is_won()).count();
        audit.found(
            FindingKind::SuccessDoubtful,
            format!("{name}: {count} of {n} episodes, {won} of them won, {what}"),
        );
    }
}

/// Checks how often each game was played. If the suite is the card's, the played games are compared
/// with the games of the suite too.
pub(super) fn check_counts(
    measured: &MeasuredEpisodes<'_>,
    suite: Option<&Suite>,
    audit: &mut Audit,
) {
    let MeasuredEpisodes {
        name,
        episodes,
        card,
    } = measured;
    let times = card.map_or(1, Card::times);
    let mut counts: GameCounts<'_> = BTreeMap::new();
    for episode in *episodes {
        *counts
            .entry((episode.split, &episode.game_hash))
            .or_default() += 1;
    }
    let repeated = counts.values().filter(|count| **count > times).count();
    if repeated > 0 {
        let most = counts.values().max().copied().unwrap_or(0);
        let text = format!(
            "{name}: {repeated} of {} games were played more than {times} times, one of them {most} times",
            counts.len()
        );
        audit.found(FindingKind::GamesRepeated, text);
    }
    let failed = episodes
        .iter()
        .filter(|episode| episode.outcome == Outcome::EnvFailed)
        .count();
    if failed > 0 {
        let n = episodes.len();
        audit.found(
            FindingKind::EpisodesLost,
            format!("{name}: {failed} of {n} episodes were lost to the world and count nowhere"),
        );
    }
    let Some(suite) = suite.filter(|suite| card.is_none_or(|card| card.suite_hash == suite.hash()))
    else {
        return;
    };
    let splits: BTreeSet<Split> = match card {
        Some(card) => card.splits.iter().copied().collect(),
        None => counts.keys().map(|(split, _)| *split).collect(),
    };
    for split in splits {
        check_split(name, split, suite, times, &counts, audit);
    }
}

/// Number of episodes by split and hash of the game.
type GameCounts<'a> = BTreeMap<(Split, &'a str), usize>;

/// Compares the played games of a split with those of the suite.
fn check_split(
    name: &str,
    split: Split,
    suite: &Suite,
    times: usize,
    counts: &GameCounts<'_>,
    audit: &mut Audit,
) {
    let games: BTreeSet<&str> = suite
        .split(split)
        .iter()
        .map(|task| task.hash.as_str())
        .collect();
    let missing = games
        .iter()
        .filter(|game| counts.get(&(split, **game)).copied().unwrap_or(0) < times)
        .count();
    if missing > 0 {
        let n = games.len();
        let text = match times {
            1 => format!("{name}: {missing} of {n} games of {split} were not played"),
            _ => format!(
                "{name}: {missing} of {n} games of {split} were played fewer than {times} times"
            ),
        };
        audit.found(FindingKind::GamesMissing, text);
    }
    let foreign = counts
        .keys()
        .filter(|(of, game)| *of == split && !games.contains(game))
        .count();
    if foreign > 0 {
        let text = format!(
            "{name}: {foreign} games of {split} were played that the suite {} does not contain",
            suite.name
        );
        audit.found(FindingKind::GamesForeign, text);
    }
}

/// Checks if the card's rule for the selection of the checkpoint names a test split.
pub(super) fn check_checkpoint(measured: &MeasuredEpisodes<'_>, audit: &mut Audit) {
    let MeasuredEpisodes { name, card, .. } = measured;
    let Some(Card { checkpoint, .. }) = card else {
        return;
    };
    if checkpoint
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|word| ["valid_seen", "valid_unseen", "test"].contains(&word))
    {
        audit.found(
            FindingKind::CheckpointChosenOnTest,
            format!("{name}: the checkpoint was selected on a test split: {checkpoint}"),
        );
    }
}
