//! A database that has failed, because the disk was full or gone for a while, takes nothing more. Another
//! takes its place, made from what is in memory.

use super::{Store, StoreError, generation, put_entry};

impl Store {
    /// Puts a new database in the place of one that has failed. Where that cannot be yet, everything
    /// stays as it is. What had come of unfinished transfers is found again from their files.
    ///
    /// # Errors
    /// When the disk still takes nothing.
    pub fn go_on_after_failure(&mut self) -> Result<(), StoreError> {
        if !self.database.has_failed() {
            return Ok(());
        }
        let fresh = generation::beside(&self.state_dir)?;
        let filled = (|| {
            let authorizations = fresh.pieces("authorizations")?;
            for entry in self.entries.values() {
                put_entry(&fresh, &authorizations, entry)?;
            }
            let all = (
                self.broadcasts.copy_to(&fresh, "broadcasts")?,
                self.transfers.copy_to(&fresh, "transfers")?,
                self.groups.copy_to(&fresh, "groups")?,
                self.invites.copy_to(&fresh, "invites")?,
                self.plans.copy_to(&fresh, "plans")?,
                fresh.pieces("progress")?,
            );
            fresh.complete()?;
            Ok((authorizations, all))
        })();
        let (authorizations, (broadcasts, transfers, groups, invites, plans, progress)) =
            match filled {
                Ok(filled) => filled,
                Err(error) => {
                    generation::remove(fresh);
                    return Err(error);
                }
            };
        self.authorizations = authorizations;
        self.broadcasts.go_on_in(broadcasts);
        self.transfers.go_on_in(transfers);
        self.groups.go_on_in(groups);
        self.invites.go_on_in(invites);
        self.plans.go_on_in(plans);
        self.progress = progress;
        generation::remove(std::mem::replace(&mut self.database, fresh));
        self.groups_file.write(&self.groups())
    }

    /// Whether the database has failed, and another must take its place.
    pub fn has_failed(&self) -> bool {
        self.database.has_failed()
    }
}
