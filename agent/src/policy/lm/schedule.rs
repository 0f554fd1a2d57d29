//! Admission: which turns are written now, given the cache budget.

use super::cache::{CacheBudget, PrefixCache};
use super::episode::LmEpisode;
use scenarios::Protocol;
use std::sync::MutexGuard;

/// Admits turns to the batch that is being decoded (continuous batching).
pub(super) struct Admission<'a> {
    pub(super) budget: &'a CacheBudget,
    /// Number of networks that read each token.
    pub(super) networks: usize,
    pub(super) protocol: &'a Protocol,
}

impl Admission<'_> {
    /// Admits, in order, every turn for which the budget has room. If no turn is being written and
    /// the first turn does not fit, all shared prefixes are evicted, and the episodes after the
    /// first give up their caches, beginning with the last, until it fits. An episode whose caches
    /// were evicted reads its sequence again, which changes no result.
    ///
    /// If only one episode is left and it still does not fit, it is admitted as soon as the caches
    /// hold nothing else.
    pub(super) fn admit<'p>(
        &self,
        episodes: &mut [&mut LmEpisode],
        prefixes: impl FnOnce() -> MutexGuard<'p, PrefixCache>,
    ) {
        for episode in episodes.iter_mut() {
            if !episode.is_admitted() && self.fits(episode) {
                self.start(episode);
            }
        }
        let Some((first, others)) = episodes.split_first_mut() else {
            return;
        };
        if first.is_admitted() || others.iter().any(|episode| episode.is_admitted()) {
            return;
        }
        prefixes().clear();
        for last in others.iter_mut().rev() {
            if self.fits(first) {
                break;
            }
            last.release_caches();
        }
        if !self.fits(first) {
            first.release_caches();
        }
        if self.fits(first) || self.budget.held() == 0 {
            self.start(first);
        }
    }

    /// Returns the most tokens that the episode's own caches can hold before its turn ends.
    fn needed(&self, episode: &LmEpisode) -> usize {
        let shared = episode.policy.shared_tokens() + episode.value.shared_tokens();
        let written = self.protocol.best_of * self.protocol.completion_limit;
        (episode.sequence.len() + written) * self.networks - shared
    }

    fn fits(&self, episode: &LmEpisode) -> bool {
        self.budget.held() - episode.lease.tokens() + self.needed(episode) <= self.budget.limit
    }

    fn start(&self, episode: &mut LmEpisode) {
        episode.lease.set(self.needed(episode));
        if let Some(turn) = &mut episode.in_progress {
            turn.admitted = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::lm::turn::TurnInProgress;
    use std::sync::Mutex;

    /// An episode with `tokens` tokens, of which its caches hold `cached`, that waits for its next
    /// turn.
    fn waiting(budget: &CacheBudget, tokens: usize, cached: usize) -> LmEpisode {
        let mut episode = LmEpisode::new(0, budget.lease(cached));
        episode.sequence = vec![1; tokens];
        episode.in_progress = Some(TurnInProgress {
            observation: Vec::new(),
            windowed: None,
            value: None,
            candidates: Vec::new(),
            admitted: false,
        });
        episode
    }

    /// Two candidates of at most five tokens and one network: each turn adds ten tokens. Returns
    /// which of the episodes are admitted.
    fn admitted(budget: &CacheBudget, episodes: &mut [LmEpisode]) -> Vec<bool> {
        let protocol = Protocol {
            best_of: 2,
            completion_limit: 5,
            ..Protocol::default()
        };
        let admission = Admission {
            budget,
            networks: 1,
            protocol: &protocol,
        };
        let prefixes = Mutex::new(PrefixCache::default());
        let mut waiting: Vec<&mut LmEpisode> = episodes.iter_mut().collect();
        admission.admit(&mut waiting, || prefixes.lock().unwrap());
        episodes.iter().map(LmEpisode::is_admitted).collect()
    }

    #[test]
    fn turns_are_admitted_while_the_budget_has_room() {
        let budget = CacheBudget::new(70);
        let mut episodes = [20, 40, 25].map(|tokens| waiting(&budget, tokens, 0));
        assert_eq!(
            admitted(&budget, &mut episodes),
            [true, false, true],
            "30 and 35 tokens fit; 50 in between do not"
        );
        assert_eq!(budget.held(), 65);
        assert_eq!(
            admitted(&budget, &mut episodes),
            [true, false, true],
            "an admitted turn keeps its place"
        );
        let [first, ..] = &mut episodes;
        first.lease.set(0);
        first.in_progress = None;
        assert_eq!(admitted(&budget, &mut episodes[1..]), [false, true]);
        episodes[2].in_progress = None;
        episodes[2].lease.set(0);
        assert_eq!(admitted(&budget, &mut episodes[1..2]), [true]);
    }

    /// The caches of waiting episodes hold 60 of 70 tokens. The first needs 50, so the last gives
    /// up its 30 tokens, and the one before the last keeps its 10.
    #[test]
    fn the_last_episode_gives_up_its_caches_first() {
        let budget = CacheBudget::new(70);
        let mut episodes = [
            waiting(&budget, 40, 20),
            waiting(&budget, 80, 10),
            waiting(&budget, 90, 30),
        ];
        assert_eq!(admitted(&budget, &mut episodes), [true, false, false]);
        let leases = episodes.each_ref().map(|episode| episode.lease.tokens());
        assert_eq!((leases, budget.held()), ([50, 10, 0], 60));
    }

    #[test]
    fn an_episode_that_never_fits_is_admitted_alone() {
        let budget = CacheBudget::new(30);
        let mut episodes = [waiting(&budget, 40, 5), waiting(&budget, 20, 20)];
        assert_eq!(admitted(&budget, &mut episodes), [true, false]);
        assert_eq!(budget.held(), 50);
        let elsewhere = budget.lease(1);
        let mut alone = [waiting(&budget, 40, 0)];
        episodes[0].lease.set(0);
        assert_eq!(admitted(&budget, &mut alone), [false]);
        drop(elsewhere);
        assert_eq!(admitted(&budget, &mut alone), [true]);
    }
}
