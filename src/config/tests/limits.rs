//! `[limits]` and `[[limits.at]]`.

use super::*;

/// 2026-11-20, a Friday, at 07:00 in Berlin.
const FRIDAY: u64 = 1_795_154_400;
const HOUR: u64 = 3600;

#[test]
fn rates_are_read_and_rules_hold_at_their_hours_and_in_their_zone() {
    let machine = Machine::with(
        "[limits]\nrate = \"5MB/s\"\nrate_per_device = \"8 Mbit/s\"\n\
         [[limits.at]]\nhours = \"Mon-Fri 08:00-16:00\"\nrate = \"2MB/s\"\n\
         [[limits.at]]\nhours = [\"22:00-06:00\", \"Sat,Sun\"]\ntime_zone = \"America/New_York\"\n\
         rate = \"1MB\"\nwho = [\"library\"]\n\
         [[limits.at]]\nwho = [\"lab-7\"]\nrate = \"16kB/s\"\n",
    );
    let limits = machine.load().unwrap().limits;
    assert_eq!(limits.rate, Some(5_000_000));
    assert_eq!(limits.rate_per_device, Some(1_000_000));
    assert_eq!(limits.receive_rate, None);
    let [school, night, always] = &limits.at[..] else {
        panic!("{:?}", limits.at)
    };
    assert!(!school.holds(FRIDAY) && school.holds(FRIDAY + HOUR));
    assert!(school.holds(FRIDAY + 9 * HOUR - 1) && !school.holds(FRIDAY + 9 * HOUR));
    assert!(!school.holds(FRIDAY + 25 * HOUR), "Saturday");
    // 07:00 in Berlin is 01:00 in New York.
    assert!(night.holds(FRIDAY) && !night.holds(FRIDAY + 5 * HOUR));
    assert_eq!(night.who.as_deref(), Some(&["library".to_owned()][..]));
    assert!(school.who.is_none() && always.holds(0) && always.rate == 16_000);
}

#[test]
fn every_mistake_in_limits_is_named() {
    let machine = Machine::with(
        "[limits]\nrate = \"15kB/s\"\nreceive_rate = \"fast\"\n\
         [[limits.at]]\nhours = \"Mon-Fry 08:00-16:00\"\nrate = \"none\"\n\
         [[limits.at]]\nrate = \"1MB/s\"\n\
         [[limits.at]]\nhour = \"Mon\"\nwho = []\ntime_zone = \"Berlin\"\n",
    );
    let error = machine.load().unwrap_err().to_string();
    for mistake in [
        "limits.rate",
        "limits.receive_rate",
        "limits.at[1].hours",
        "limits.at[1].rate",
        "limits.at[2].hours",
        "limits.at[3].rate",
        "limits.at[3].hour",
        "limits.at[3].who",
        "limits.at[3].time_zone",
    ] {
        assert!(error.contains(mistake), "{mistake}: {error}");
    }
}
