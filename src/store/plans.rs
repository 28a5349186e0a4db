//! What is remembered of the config file's broadcasts.

use super::record::PlanRecord;
use super::{Store, StoreError};
use crate::protocol::series::SeriesName;

impl Store {
    /// Puts what is remembered of a broadcast of the config file. [`Store::flush`] makes it
    /// durable.
    pub fn put_plan(&mut self, record: PlanRecord) -> Result<(), StoreError> {
        self.plans.put(&self.database, record)
    }

    /// All of them, in the order of their names.
    pub fn plans(&self) -> Vec<PlanRecord> {
        self.plans.iter().cloned().collect()
    }

    /// Forgets one; false where there was none.
    pub fn remove_plan(&mut self, name: &SeriesName) -> Result<bool, StoreError> {
        self.plans.remove(&self.database, name)
    }
}
