//! The worlds: the native PDDL and text-grammar engine
