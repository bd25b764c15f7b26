//! What the fuzz targets run. The bodies are a plain module, so that `tests/corpus.rs` replays the corpus on stable.

pub mod bodies;
