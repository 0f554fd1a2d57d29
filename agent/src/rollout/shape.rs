//! The shape of an episode: a single sequence of turns, or a tree that is searched.

use super::state::{AfterState, RolloutState, StateEnd};
use super::tree::SearchTree;
use scenarios::Protocol;

/// The states of an episode that are being played.
pub(super) enum EpisodeShape<S> {
    /// One state. `None` after it has ended.
    Single(Option<RolloutState<S>>),
    /// The states of a search.
    Tree(Box<SearchTree<S>>),
}

impl<S> EpisodeShape<S> {
    /// Returns the shape that the protocol asks for. `forced` is the number of turns at the
    /// beginning that were played before.
    pub(super) fn new(protocol: &Protocol, forced: usize, root: RolloutState<S>) -> Self {
        match protocol.search {
            None => Self::Single(Some(root)),
            Some(search) => Self::Tree(Box::new(SearchTree::new(search, protocol, forced, root))),
        }
    }

    /// Returns the tree, if the episode is searched.
    pub(super) fn tree(&mut self) -> Option<&mut SearchTree<S>> {
        match self {
            Self::Single(_) => None,
            Self::Tree(tree) => Some(&mut **tree),
        }
    }

    pub(super) fn is_searched(&self) -> bool {
        matches!(self, Self::Tree(_))
    }

    /// Returns the states that are being played, by index.
    pub(super) fn states(&mut self) -> Vec<(usize, &mut RolloutState<S>)> {
        match self {
            Self::Single(state) => state.iter_mut().map(|state| (0, state)).collect(),
            Self::Tree(tree) => tree.states().collect(),
        }
    }

    /// Returns the state with this index.
    pub(super) fn state(&mut self, index: usize) -> &mut RolloutState<S> {
        match self {
            Self::Single(state) => state.as_mut(),
            Self::Tree(tree) => tree.state(index),
        }
        .expect("the state is being played")
    }

    /// Takes the end of a state.
    pub(super) fn end(&mut self, index: usize, end: StateEnd) -> AfterState<S> {
        match self {
            Self::Single(state) => {
                let state = state
                    .take()
                    .expect("only a state that is being played ends");
                AfterState::End(Box::new(state), end)
            }
            Self::Tree(tree) => tree.end(index, end),
        }
    }
}
