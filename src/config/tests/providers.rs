//! `[[provider]]`.

use super::*;
use crate::protocol::provider::{Generator, Kind, Value};

#[test]
fn providers_are_read_with_their_parameters_and_defaults() {
    let machine = Machine::with(
        "[[provider]]\nname = \"spectrum\"\ngenerator = \"spectrum\"\n\
         [[provider]]\nname = \"rec\"\ncommand = [\"/bin/rec\", \"--rate={rate}\", \"{output}\", \"{{x}}\"]\n\
         file_name = \"rec.npz\"\ncache_size = \"0\"\ncache_for = \"1h\"\nat_most = 5\ntimeout = \"5m\"\n\
         max_size = \"2GB\"\nto = [\"class-3b\"]\nplain = true\nenabled = false\n\
         [provider.parameters]\nrate = { type = \"number\", min = 1, max = 1e9, default = 1e6 }\n\
         mode = { type = \"text\", choices = [\"a\", \"b\"] }\ncount = { type = \"integer\", min = -3 }\n\
         [provider.parameters.wide]\ntype = \"boolean\"\ndefault = false\n",
    );
    let settings = machine.load().unwrap();
    let [spectrum, rec] = &settings.providers[..] else {
        panic!("two providers")
    };
    assert_eq!(spectrum.origin, Origin::Generator(Generator::Spectrum));
    assert_eq!(spectrum.parameters, Generator::Spectrum.parameters());
    assert!(spectrum.enabled && !spectrum.plain && spectrum.to.is_empty());
    let Origin::Command { program, arguments } = &rec.origin else {
        panic!("a command")
    };
    let json = r#"{"mode":"b","count":-2}"#;
    let values = rec.parameters.check(json).unwrap();
    assert_eq!(program, "/bin/rec");
    let filled = arguments
        .iter()
        .map(|argument| argument.fill(&values, "/o"));
    assert_eq!(filled.collect::<Vec<_>>(), ["--rate=1000000", "/o", "{x}"]);
    assert!(rec.plain && !rec.enabled);
    assert_eq!(
        (rec.at_most, rec.cache_size, rec.max_size),
        (5, 0, 2_000_000_000)
    );
    assert_eq!(rec.to, ["class-3b"]);
    assert_eq!(
        rec.parameters.0["wide"].default,
        Some(Value::Boolean(false))
    );
    let kind = &rec.parameters.0["count"].kind;
    assert!(matches!(kind, Kind::Integer { min: -3, .. }));
    assert!(rec.parameters.check(r#"{"mode":"c","count":1}"#).is_err());
    assert!(rec.parameters.check(r#"{"mode":"a"}"#).is_err());
    let shown = settings.describe().iter().map(|setting| &setting.key);
    assert!(
        shown
            .into_iter()
            .any(|key| key == "provider[2].parameters.rate")
    );
    assert_eq!(ProviderRule::built_in().len(), Generator::ALL.len());
}

#[test]
fn everyone_is_whoever_the_rendezvous_lets_ask() {
    let machine = Machine::with(
        "[[provider]]\nname = \"signal\"\ngenerator = \"signal\"\nto = [\"everyone\"]\n",
    );
    assert!(machine.load().unwrap().providers[0].to.is_empty());
}

#[test]
fn a_parameter_that_no_argument_uses_is_doubted() {
    let machine = Machine::with(
        "[[provider]]\nname = \"rec\"\ncommand = [\"/bin/rec\", \"{rate}\", \"{output}\"]\n\
         [provider.parameters]\nrate = { type = \"number\" }\nmode = { type = \"boolean\" }\n",
    );
    let settings = machine.load().unwrap();
    let doubts: Vec<String> = settings
        .warnings()
        .iter()
        .map(ToString::to_string)
        .collect();
    let about: Vec<_> = doubts
        .iter()
        .filter(|text| text.contains("no argument"))
        .collect();
    assert!(
        about.len() == 1 && about[0].contains("{mode}"),
        "{doubts:?}"
    );
}
