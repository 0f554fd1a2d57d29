//! How episodes are played: the flags that `play`, `collect`, `eval` and `sweep` share, the
//! function that turns them into a [`Protocol`], and the function that checks K.

use crate::args::policy::{CandidateArgs, Player, PolicyArgs, PolicyKind};
use crate::args::server::print_notes;
use crate::args::world::OpenedWorld;
use crate::ui::WrongUse;
use agent::rollout::NO_LOOK_AHEAD;
use clap::Args;
use scenarios::expert::goal_object;
use scenarios::{History, Protocol, Scorer, Search, Task, TextVersion, World};
use trainer::measure::card::NamedCard;

/// The protocol flags of every command that plays.
#[derive(Args)]
pub(crate) struct PlayArgs {
    /// Maximum number of turns in an episode [default: 40]
    #[arg(long)]
    turns: Option<usize>,
    /// Maximum number of tokens in a completion
    #[arg(long, default_value_t = 24)]
    completion: usize,
    /// Show the admissible commands to the policy; this is a different protocol
    #[arg(long)]
    show_admissible: bool,
    /// What the policy sees of its episode: `full`, or `last_N` for the first observation and the N
    /// turns before the current one [default: full]
    #[arg(long)]
    history: Option<History>,
    #[command(flatten)]
    pub(crate) policy: PolicyArgs,
}

/// The part of a protocol that each command decides for itself.
pub(crate) struct PlaySetting {
    /// A named protocol; it applies if a flag is not set.
    pub(crate) card: Option<NamedCard>,
    /// Sampling temperature; 0 is greedy.
    pub(crate) temperature: f32,
    /// K, the number of candidates per turn.
    pub(crate) best_of: usize,
    /// What selects among K candidates if K is above 1.
    pub(crate) scorer: Scorer,
    /// How the K candidates are counted and scored.
    pub(crate) candidates: CandidateArgs,
    pub(crate) search: Option<Search>,
    /// The text version that every game uses; `None` if each uses its own.
    pub(crate) translated_to: Option<TextVersion>,
}

impl PlaySetting {
    /// Returns the setting with one candidate per turn, without card or search.
    pub(crate) fn single(temperature: f32, translated_to: Option<TextVersion>) -> Self {
        Self {
            card: None,
            temperature,
            best_of: 1,
            scorer: Scorer::default(),
            candidates: CandidateArgs::default(),
            search: None,
            translated_to,
        }
    }
}

impl PlayArgs {
    /// Returns the protocol. Flags come first, then the card, then the default. `player` is `None`
    /// for a person, and as long as the policy is not open.
    pub(crate) fn protocol(&self, setting: &PlaySetting, player: Option<&Player>) -> Protocol {
        let default = Protocol::default();
        let card = setting.card;
        let sampling = &self.policy.sampling;
        let protocol = Protocol {
            turn_limit: self
                .turns
                .or(card.map(NamedCard::turn_limit))
                .unwrap_or(default.turn_limit),
            context_limit: player.map_or(0, Player::context),
            completion_limit: self.completion,
            temperature: setting.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            stop: self.policy.stop(&[]),
            weights: self.policy.load.weights,
            kv: self.policy.load.kv,
            best_of: setting.best_of,
            scorer: if setting.best_of > 1 {
                setting.scorer
            } else {
                Scorer::default()
            },
            soft_value_beta: default.soft_value_beta,
            distinct_by: default.distinct_by,
            reference: None,
            search: setting.search,
            admissible_shown: self.show_admissible || card.is_some_and(NamedCard::admissible_shown),
            history: self
                .history
                .or(card.map(NamedCard::history))
                .unwrap_or(default.history),
            malformed: default.malformed,
            action_format: match player {
                // They write nothing but the command.
                Some(Player::Expert(_) | Player::Dagger(_)) => default.action_format,
                Some(Player::Model(_) | Player::Remote(_)) | None => {
                    self.policy.action_format(card)
                }
            },
            thinking: default.thinking,
            template: None,
            translated_to: setting.translated_to,
            instructions: None,
        };
        let protocol = setting.candidates.apply(protocol);
        match player {
            None | Some(Player::Expert(_)) => protocol,
            Some(Player::Dagger(dagger)) => Protocol {
                thinking: dagger.student.thinking,
                template: dagger.student.template.clone(),
                ..protocol
            },
            Some(Player::Model(model)) => Protocol {
                reference: model.reference_name().map(str::to_owned),
                thinking: model.thinking,
                template: model.template.clone(),
                ..protocol
            },
            Some(Player::Remote(remote)) => {
                let protocol = remote.protocol(protocol);
                print_notes(&remote.take_notes());
                protocol
            }
        }
    }
}

/// How many candidates a command generates per turn, and what selects among them.
#[derive(Clone, Copy)]
pub(crate) struct SelectionFlags<'a> {
    /// The value of `--policy`.
    pub(crate) policy: &'a str,
    /// Every K that is played.
    pub(crate) best_of: &'a [usize],
    pub(crate) scorer: Scorer,
    pub(crate) search: Option<Search>,
}

/// What is open when the flags are checked. Each variant repeats the checks of those before it.
#[derive(Clone, Copy)]
pub(crate) enum OpenedParts<'a> {
    /// Nothing yet.
    Nothing,
    /// The policy; `None` for a person.
    Policy(Option<&'a Player>),
    /// The policy and the world with one of its games.
    World {
        player: Option<&'a Player>,
        opened: &'a OpenedWorld,
        /// The world in which episodes run, translated or not.
        world: &'a dyn World,
        task: &'a Task,
    },
}

impl SelectionFlags<'_> {
    /// Checks, before the first episode, that every K can be played.
    ///
    /// # Errors
    /// If K is 0, if the policy generates only one completion, if it lacks the network of its
    /// scorer or of its search, if the world cannot be copied and the scorer or search needs copies,
    /// or if the scorer is the expert and the game is no household game.
    pub(crate) fn check(self, parts: OpenedParts<'_>) -> anyhow::Result<()> {
        self.check_flags()?;
        match parts {
            OpenedParts::Nothing => {}
            OpenedParts::Policy(player) => self.check_policy(player)?,
            OpenedParts::World {
                player,
                opened,
                world,
                task,
            } => {
                self.check_policy(player)?;
                self.check_world(opened)?;
                if self.highest_k() > 1 {
                    self.check_game(world, task)?;
                }
            }
        }
        Ok(())
    }

    /// Checks that the oracle or the expert can score candidates in this game.
    fn check_game(self, world: &dyn World, task: &Task) -> anyhow::Result<()> {
        match self.scorer {
            Scorer::Oracle if !reports_distance(world, task)? => {
                Err(WrongUse(format!("--scorer oracle: {NO_LOOK_AHEAD}")).into())
            }
            Scorer::Expert if goal_object(&world.open(task)?.reset()?.text).is_none() => {
                Err(WrongUse(format!(
                    "--scorer expert: the expert reads no household task in the first observation of {}\n\
                     hint: use another scorer for other games",
                    task.id
                ))
                .into())
            }
            _ => Ok(()),
        }
    }

    fn highest_k(self) -> usize {
        self.best_of.iter().copied().max().unwrap_or(1)
    }

    fn check_flags(self) -> Result<(), WrongUse> {
        if self.best_of.contains(&0) {
            return Err(WrongUse("--best-of: K starts at 1".into()));
        }
        match PolicyKind::of(self.policy) {
            PolicyKind::Server if self.highest_k() > 1 => Err(WrongUse(
                "--best-of: a value network chooses the best of K, and a server has none; \
                 only K = 1 works"
                    .into(),
            )),
            PolicyKind::Expert if self.highest_k() > 1 => Err(WrongUse(
                "--best-of: the expert writes one completion; only K = 1 makes sense".into(),
            )),
            _ => Ok(()),
        }
    }

    fn check_policy(self, player: Option<&Player>) -> Result<(), WrongUse> {
        self.check_search(player)?;
        match player {
            Some(Player::Model(model))
                if self.highest_k() > 1 && !model.scorers().contains(&self.scorer) =>
            {
                Err(self.unsupported_scorer())
            }
            _ => Ok(()),
        }
    }

    fn check_search(self, player: Option<&Player>) -> Result<(), WrongUse> {
        let Some(search) = self.search else {
            return Ok(());
        };
        let highest_k = self.highest_k();
        let has_value = matches!(player, Some(Player::Model(model)) if model.has_value());
        match search {
            _ if !has_value => Err(WrongUse(format!(
                "--search {search}: {} has no value network to guide the search\n\
                 hint: use a model folder that contains value/",
                self.policy
            ))),
            Search::BestFirst { budget } if budget < highest_k => Err(WrongUse(format!(
                "--search {search}: fewer completions than the {highest_k} of --best-of, which each \
                 state gets"
            ))),
            Search::BestFirst { .. } | Search::Beam { .. } => Ok(()),
        }
    }

    fn unsupported_scorer(self) -> WrongUse {
        WrongUse(match self.scorer {
            Scorer::LogRatio => "--scorer log_ratio: needs a reference policy\n\
                                 hint: --reference MODEL, the one that training started from"
                .into(),
            _ => format!(
                "--best-of {}: {} has no value network (value/)\n\
                 hint: --scorer logprob, random or distinct needs none",
                self.highest_k(),
                self.policy
            ),
        })
    }

    fn check_world(self, opened: &OpenedWorld) -> Result<(), WrongUse> {
        match self.search {
            Some(search) if !opened.can_be_copied() => Err(WrongUse(format!(
                "--search {search}: this world cannot be copied\nhint: --world native"
            ))),
            _ => Ok(()),
        }
    }
}

/// Returns whether the game can be copied and reports its distance to the goal, which the oracle
/// needs.
///
/// # Errors
/// If the game cannot be opened.
pub(crate) fn reports_distance(world: &dyn World, task: &Task) -> anyhow::Result<bool> {
    let copy = world.open(task)?.fork();
    Ok(copy.is_some_and(|copy| copy.remaining().is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(policy: &str, best_of: &[usize], search: Option<Search>) -> String {
        let flags = SelectionFlags {
            policy,
            best_of,
            scorer: Scorer::default(),
            search,
        };
        flags
            .check(OpenedParts::Policy(None))
            .map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn only_a_model_folder_has_more_than_one_candidate() {
        assert_eq!(refusal("models/a", &[1, 3], None), "");
        assert_eq!(refusal("expert", &[1], None), "");
        assert!(refusal("expert", &[1, 3], None).contains("only K = 1"));
        assert!(refusal("openai:http://localhost#m", &[2], None).contains("only K = 1"));
        assert!(refusal("models/a", &[1, 0], None).contains("K starts at 1"));
    }

    #[test]
    fn a_search_needs_a_value_network() {
        let search = Some(Search::Beam { width: 2 });
        assert!(refusal("person", &[2], search).contains("no value network"));
    }
}
