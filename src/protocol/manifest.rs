//! (to come)
use serde::{Deserialize, Serialize};

/// One file or a folder tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One file.
    File,
    /// A folder tree.
    Folder,
}
