//! Household games.
