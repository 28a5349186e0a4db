//! What is over goes away.

use std::time::Duration;

use sqlx::Row;

use super::{Refused, Store, now};

/// Sessions in one step, so that nobody waits long behind it.
const STEP: i64 = 500;

impl Store {
    /// Closes sessions that are over and forgets what was said in them; forgets the oldest for
    /// good. True when there may be more to do.
    pub(in crate::rendezvous) async fn sweep(&self, keep: Duration) -> Result<bool, Refused> {
        let now = now();
        let over = sqlx::query(
            "SELECT session_id, status FROM ice_sessions
             WHERE status IN ('pending', 'claimed', 'answered') AND expires_at <= $1 LIMIT $2",
        );
        let over = over.bind(now).bind(STEP).fetch_all(&self.read).await?;
        for row in &over {
            let (id, status): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            // What two devices do directly is out of sight here.
            let (status, transfer) = match &*status {
                "pending" => ("expired", "expired"),
                "claimed" => ("expired", "abandoned"),
                _ => ("closed", "direct"),
            };
            let mut work = self.write.begin().await?;
            let closed = sqlx::query(
                "UPDATE ice_sessions SET status = $1 WHERE session_id = $2 AND expires_at <= $3",
            );
            let closed = closed.bind(status).bind(id.clone()).bind(now);
            // It may have gone on in the meantime.
            if closed.execute(&mut *work).await?.rows_affected() == 0 {
                continue;
            }
            sqlx::query("DELETE FROM ice_candidates WHERE session_id = $1")
                .bind(id.clone())
                .execute(&mut *work)
                .await?;
            sqlx::query(
                "UPDATE file_transfers SET status = $1 WHERE session_id = $2
                     AND status IN ('pending', 'negotiating', 'connecting')",
            )
            .bind(transfer)
            .bind(id)
            .execute(&mut *work)
            .await?;
            work.commit().await?;
        }
        let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        let old = sqlx::query(
            "SELECT session_id FROM ice_sessions
             WHERE status IN ('expired', 'closed') AND expires_at <= $1 LIMIT $2",
        );
        let old = old.bind(now.saturating_sub(keep)).bind(STEP);
        let old = old.fetch_all(&self.read).await?;
        for row in &old {
            let id: String = row.try_get(0)?;
            let mut work = self.write.begin().await?;
            for forget in [
                "DELETE FROM ice_candidates WHERE session_id = $1",
                "DELETE FROM file_transfers WHERE session_id = $1",
                "DELETE FROM ice_sessions WHERE session_id = $1",
            ] {
                let forget = sqlx::query(forget).bind(id.clone());
                forget.execute(&mut *work).await?;
            }
            work.commit().await?;
        }
        Ok(over.len() == STEP as usize || old.len() == STEP as usize)
    }
}
