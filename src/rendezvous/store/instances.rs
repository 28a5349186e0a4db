//! Servers that share a PostgreSQL database: which of them are there, whose sockets are where, and
//! what is said from one to the other. A server with a database of its own does nothing of this.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::Row;

use super::{CHANNEL, Kind, Refused, Store, now};
use crate::protocol::id::DeviceId;

/// Without a sign of life for that long, a server is gone.
const GONE: Duration = Duration::from_secs(20);

/// How long a signal waits for the server that it is for.
const MAIL_FOR: Duration = Duration::from_secs(60);
/// Signals that are taken at once.
const TAKEN: i64 = 256;

/// The name of one run of a server: random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rendezvous) struct InstanceId(pub(super) String);

impl InstanceId {
    pub(in crate::rendezvous) fn new() -> Self {
        let mut random = [0; 16];
        // Without randomness the system has no UUIDs either, and sessions fail.
        let _ = getrandom::fill(&mut random);
        Self(data_encoding::HEXLOWER.encode(&random))
    }

    pub(in crate::rendezvous) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What others find at a server.
#[derive(Debug, Default)]
pub(in crate::rendezvous) struct Here {
    /// Devices, each with the number of its socket.
    pub devices: Vec<(DeviceId, u64)>,
    /// Relayed links.
    pub relays: Vec<String>,
}

/// A signal on its way from another server.
#[derive(Debug)]
pub(in crate::rendezvous) struct Mail {
    /// Whom it is for.
    pub to: DeviceId,
    /// Whose it is.
    pub from: DeviceId,
    /// What was sent; nothing where it says that `from` was not there.
    pub signal: Option<serde_json::Value>,
}

fn before(time: Duration) -> i64 {
    now().saturating_sub(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

pub(super) fn alive_since() -> i64 {
    before(GONE)
}

impl Store {
    fn is_shared(&self) -> bool {
        self.kind == Kind::Postgres
    }

    /// A sign of life of this server. Where others do not know it, or took it for gone and have
    /// cleared away what they knew of it, they are told all that is here, which is returned then.
    pub(in crate::rendezvous) async fn alive(
        &self,
        ours: &InstanceId,
        public_url: &str,
        here: impl FnOnce() -> Here,
    ) -> Result<Option<Here>, Refused> {
        if !self.is_shared() {
            return Ok(None);
        }
        let mut work = self.write.begin().await?;
        let seen = sqlx::query("UPDATE instances SET seen_at = $1 WHERE instance_id = $2");
        let seen = seen.bind(now()).bind(ours.0.clone());
        if seen.execute(&mut *work).await?.rows_affected() > 0 {
            work.commit().await?;
            return Ok(None);
        }
        sqlx::query("INSERT INTO instances (instance_id, public_url, seen_at) VALUES ($1, $2, $3)")
            .bind(ours.0.clone())
            .bind(public_url.to_owned())
            .bind(now())
            .execute(&mut *work)
            .await?;
        let here = here();
        let mut devices: Vec<_> = here.devices.iter().collect();
        // In one order, so that no two servers wait for each other.
        devices.sort();
        let ids: Vec<&str> = devices.iter().map(|(id, _)| id.as_str()).collect();
        let numbers: Vec<String> = devices.iter().map(|(_, n)| n.to_string()).collect();
        let ids = ids.join(",");
        // What has come to another server meanwhile stays there.
        sqlx::query(
            "INSERT INTO device_sockets (device_id, instance_id, number)
             SELECT d.id, $1, d.number FROM unnest(
                 string_to_array($2, ','), string_to_array($3, ',')::BIGINT[]) AS d (id, number)
             ON CONFLICT (device_id) DO UPDATE
                 SET instance_id = excluded.instance_id, number = excluded.number
             WHERE NOT EXISTS (SELECT 1 FROM instances i
                 WHERE i.instance_id = device_sockets.instance_id AND i.seen_at >= $4)",
        )
        .bind(ours.0.clone())
        .bind(ids.clone())
        .bind(numbers.join(","))
        .bind(alive_since())
        .execute(&mut *work)
        .await?;
        sqlx::query(
            "INSERT INTO relay_places (relay_id, instance_id)
             SELECT r.id, $1 FROM unnest(string_to_array($2, ',')) AS r (id)
             ON CONFLICT (relay_id) DO NOTHING",
        )
        .bind(ours.0.clone())
        .bind(here.relays.join(","))
        .execute(&mut *work)
        .await?;
        let tell = sqlx::query(
            "SELECT pg_notify($1, 'd' || d.id) FROM unnest(string_to_array($2, ',')) AS d (id)",
        );
        let tell = tell.bind(CHANNEL).bind(ids);
        tell.execute(&mut *work).await?;
        work.commit().await?;
        Ok(Some(here))
    }

    /// Clears away what servers that are gone have left, and signals that nobody has taken; and what
    /// this one has, where it ends.
    pub(in crate::rendezvous) async fn clear_gone(
        &self,
        ending: Option<&InstanceId>,
    ) -> Result<(), Refused> {
        if !self.is_shared() {
            return Ok(());
        }
        let late = sqlx::query("DELETE FROM device_mails WHERE created_at < $1");
        late.bind(before(MAIL_FOR)).execute(&self.write).await?;
        let ending = ending.map_or("", InstanceId::as_str).to_owned();
        let gone = sqlx::query(
            "SELECT instance_id FROM instances WHERE seen_at < $1 OR instance_id = $2 LIMIT 100",
        );
        let gone = gone.bind(alive_since()).bind(ending.clone());
        for row in gone.fetch_all(&self.read).await? {
            let gone: String = row.try_get(0)?;
            let mut work = self.write.begin().await?;
            // One that comes back waits for the end of this, and tells again what is there.
            let forget = sqlx::query(
                "DELETE FROM instances
                 WHERE instance_id = $1 AND (seen_at < $2 OR instance_id = $3)",
            );
            let forget = forget.bind(gone.clone()).bind(alive_since());
            let forget = forget.bind(ending.clone()).execute(&mut *work).await?;
            if forget.rows_affected() == 0 {
                continue;
            }
            let devices = sqlx::query(
                "DELETE FROM device_sockets WHERE instance_id = $1 RETURNING device_id",
            );
            let devices = devices.bind(gone.clone()).fetch_all(&mut *work).await?;
            for device in devices {
                let device: String = device.try_get(0)?;
                self.tell(&mut work, &format!("d{device}")).await?;
            }
            for forget in [
                "DELETE FROM device_mails WHERE instance_id = $1",
                "DELETE FROM relay_places WHERE instance_id = $1",
            ] {
                let forget = sqlx::query(forget).bind(gone.clone());
                forget.execute(&mut *work).await?;
            }
            work.commit().await?;
        }
        Ok(())
    }

    /// A device's socket is open here now, and nowhere else. Of two here, the one with the higher
    /// number counts, in whatever order that is written.
    pub(in crate::rendezvous) async fn device_is_here(
        &self,
        ours: &InstanceId,
        device: &DeviceId,
        number: u64,
    ) -> Result<(), Refused> {
        if !self.is_shared() {
            return Ok(());
        }
        let mut work = self.write.begin().await?;
        sqlx::query(
            "INSERT INTO device_sockets (device_id, instance_id, number) VALUES ($1, $2, $3)
             ON CONFLICT (device_id) DO UPDATE
                 SET instance_id = excluded.instance_id, number = excluded.number
             WHERE device_sockets.instance_id <> excluded.instance_id
                 OR device_sockets.number < excluded.number",
        )
        .bind(device.to_string())
        .bind(ours.0.clone())
        .bind(i64::try_from(number).unwrap_or(i64::MAX))
        .execute(&mut *work)
        .await?;
        self.tell(&mut work, &format!("d{device}")).await?;
        work.commit().await?;
        Ok(())
    }

    /// A device's socket is not open here any more; it may have a newer one.
    pub(in crate::rendezvous) async fn device_left(
        &self,
        ours: &InstanceId,
        device: &DeviceId,
        number: u64,
    ) -> Result<(), Refused> {
        if !self.is_shared() {
            return Ok(());
        }
        let mut work = self.write.begin().await?;
        let left = sqlx::query(
            "DELETE FROM device_sockets WHERE device_id = $1 AND instance_id = $2 AND number = $3",
        );
        let left = left.bind(device.to_string()).bind(ours.0.clone());
        let left = left.bind(i64::try_from(number).unwrap_or(i64::MAX));
        if left.execute(&mut *work).await?.rows_affected() > 0 {
            self.tell(&mut work, &format!("d{device}")).await?;
        }
        work.commit().await?;
        Ok(())
    }

    /// Which of these devices have sockets at other servers.
    pub(in crate::rendezvous) async fn elsewhere(
        &self,
        ours: &InstanceId,
        devices: &[&DeviceId],
    ) -> Result<BTreeSet<DeviceId>, Refused> {
        if !self.is_shared() || devices.is_empty() {
            return Ok(BTreeSet::new());
        }
        let ids: Vec<&str> = devices.iter().map(|id| id.as_str()).collect();
        let rows = sqlx::query(
            "SELECT d.device_id FROM device_sockets d
                 JOIN instances i ON i.instance_id = d.instance_id
             WHERE d.device_id = ANY(string_to_array($1, ',')) AND d.instance_id <> $2
                 AND i.seen_at >= $3",
        );
        let rows = rows.bind(ids.join(",")).bind(ours.0.clone());
        let rows = rows.bind(alive_since()).fetch_all(&self.read).await?;
        let mut there = BTreeSet::new();
        for row in rows {
            let id: String = row.try_get(0)?;
            there.extend(id.parse::<DeviceId>());
        }
        Ok(there)
    }

    /// Hands a signal to the server where a device's socket is. False where it is at none.
    pub(in crate::rendezvous) async fn mail(
        &self,
        ours: &InstanceId,
        mail: &Mail,
    ) -> Result<bool, Refused> {
        if !self.is_shared() {
            return Ok(false);
        }
        let signal = mail
            .signal
            .as_ref()
            .map_or_else(String::new, ToString::to_string);
        let mut work = self.write.begin().await?;
        let put = sqlx::query(
            "INSERT INTO device_mails (instance_id, to_device, from_device, signal, created_at)
             SELECT d.instance_id, $1, $2, $3, $4 FROM device_sockets d
                 JOIN instances i ON i.instance_id = d.instance_id
             WHERE d.device_id = $1 AND d.instance_id <> $5 AND i.seen_at >= $6
             RETURNING instance_id",
        );
        let put = put.bind(mail.to.to_string()).bind(mail.from.to_string());
        let put = put.bind(signal).bind(now());
        let put = put.bind(ours.0.clone()).bind(alive_since());
        let Some(row) = put.fetch_optional(&mut *work).await? else {
            return Ok(false);
        };
        let there: String = row.try_get(0)?;
        self.tell(&mut work, &format!("m{there}")).await?;
        work.commit().await?;
        Ok(true)
    }

    /// Takes what has come for devices here, in order; so much at once that there may be more,
    /// unless it is nothing. Only what was taken for good is returned.
    pub(in crate::rendezvous) async fn take_mails(
        &self,
        ours: &InstanceId,
    ) -> Result<Vec<Mail>, Refused> {
        let mut work = self.write.begin().await?;
        let rows = sqlx::query(
            "DELETE FROM device_mails WHERE id IN (SELECT id FROM device_mails
                 WHERE instance_id = $1 ORDER BY id LIMIT $2)
             RETURNING id, to_device, from_device, signal",
        );
        let rows = rows.bind(ours.0.clone()).bind(TAKEN);
        let rows = rows.fetch_all(&mut *work).await?;
        work.commit().await?;
        let mut mails = Vec::with_capacity(rows.len());
        for row in rows {
            let (to, from): (String, String) = (row.try_get(1)?, row.try_get(2)?);
            let signal: String = row.try_get(3)?;
            let (Ok(to), Ok(from)) = (to.parse(), from.parse()) else {
                continue;
            };
            let signal = serde_json::from_str(&signal).ok();
            mails.push((row.try_get::<i64, _>(0)?, Mail { to, from, signal }));
        }
        mails.sort_by_key(|(id, _)| *id);
        Ok(mails.into_iter().map(|(_, mail)| mail).collect())
    }
}
