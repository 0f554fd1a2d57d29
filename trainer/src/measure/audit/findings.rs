//! The result of an audit.

use serde::Serialize;

/// How severe a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// How the policy was trained. It is named beside the number, and nothing is wrong with it.
    Note,
    /// The finding must be reported beside the number.
    Warning,
    /// The number does not measure what its name claims.
    Error,
}

/// What an audit can find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The policy saw the admissible commands.
    AdmissibleShown,
    /// The scorer of best-of-K read the hidden state of the environment.
    #[serde(rename = "oracle_chooser")]
    OracleScorer,
    /// The scorer of best-of-K was the expert, which is no part of the policy.
    ExpertScorer,
    /// A search executed commands in copies of the environment.
    WorldCopies,
    /// A game of a test split is among the training games.
    TrainedOnTestGame,
    /// The training data contain episodes of a test split.
    TrainedOnTestSplit,
    /// A room of `valid_unseen` is among the rooms of the training games.
    TrainedOnUnseenRoom,
    /// The policy learned from permuted `train` games: practice in rooms that the suite does not have.
    TrainedOnPermutedRooms,
    /// The policy learned from games in generated rooms, but was measured in others.
    TrainedOnGeneratedRooms,
    /// The checkpoint was selected by its result on a test split.
    CheckpointChosenOnTest,
    /// Games were played more often than the card records.
    GamesRepeated,
    /// Games of the suite were not played, or not often enough.
    GamesMissing,
    /// Games were played that the suite does not contain.
    GamesForeign,
    /// Episodes ended because the environment failed. They are not counted in the rate.
    EpisodesLost,
    /// A logged success contradicts its episode.
    SuccessDoubtful,
    /// One store contains episodes of several policies or protocols.
    MixedStore,
    /// A card does not match its episodes.
    CardDisagrees,
}

impl FindingKind {
    /// Returns how severe a finding of this kind is.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::TrainedOnPermutedRooms | Self::TrainedOnGeneratedRooms => Severity::Note,
            Self::AdmissibleShown
            | Self::ExpertScorer
            | Self::GamesMissing
            | Self::EpisodesLost
            | Self::CardDisagrees => Severity::Warning,
            Self::OracleScorer
            | Self::WorldCopies
            | Self::TrainedOnTestGame
            | Self::TrainedOnTestSplit
            | Self::TrainedOnUnseenRoom
            | Self::CheckpointChosenOnTest
            | Self::GamesRepeated
            | Self::GamesForeign
            | Self::SuccessDoubtful
            | Self::MixedStore => Severity::Error,
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was found.
    pub id: FindingKind,
    /// How severe it is.
    pub severity: Severity,
    /// A sentence with the numbers.
    pub text: String,
}

/// The findings, and the checks that were not possible.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Leaks and invalid results.
    pub findings: Vec<Finding>,
    /// The checks whose evidence was missing, one sentence each.
    pub not_checked: Vec<String>,
}

impl Audit {
    /// Returns the number of warnings and errors. Notes do not count.
    #[must_use]
    pub fn problems(&self) -> usize {
        let findings = self.findings.iter();
        findings
            .filter(|finding| finding.severity != Severity::Note)
            .count()
    }

    /// Adds a finding.
    pub(super) fn found(&mut self, id: FindingKind, text: String) {
        self.findings.push(Finding {
            id,
            severity: id.severity(),
            text,
        });
    }

    /// Records a check that was not possible for these stores. Does nothing if there are none.
    pub(super) fn did_not_check(&mut self, what: &str, stores: &[&str]) {
        match stores {
            [] => {}
            [store] => self.not_checked.push(format!("{store}: {what}")),
            [store, ..] => self.not_checked.push(format!(
                "{} stores, for example {store}: {what}",
                stores.len()
            )),
        }
    }
}
