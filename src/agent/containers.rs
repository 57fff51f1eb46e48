//! The runtime and the images behind the agent's verbs.
