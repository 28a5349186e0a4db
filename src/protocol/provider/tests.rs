use super::*;

fn declared() -> Parameters {
    let number = |min, max| Parameter::needed(Kind::Number { min, max });
    let all = [
        ("rate", number(1.0, 1e9)),
        (
            "count",
            Parameter::needed(Kind::Integer { min: 1, max: 10 }).or(Value::Integer(3)),
        ),
        (
            "mode",
            Parameter {
                choices: vec![Value::Text("fast".into()), Value::Text("slow".into())],
                ..Parameter::needed(Kind::Text { max_length: 10 }).or(Value::Text("slow".into()))
            },
        ),
        (
            "note",
            Parameter::needed(Kind::Text { max_length: 5 }).or(Value::Text(String::new())),
        ),
        (
            "wide",
            Parameter::needed(Kind::Boolean).or(Value::Boolean(false)),
        ),
    ];
    Parameters(all.map(|(name, one)| (name.to_owned(), one)).into())
}

#[test]
fn what_fits_is_taken_and_what_is_left_out_has_its_default() {
    let values = declared()
        .check(r#"{"rate":100000000,"count":4.0}"#)
        .unwrap();
    assert_eq!(values.0["rate"], Value::Number(1e8));
    assert_eq!(values.0["rate"].to_string(), "100000000");
    assert_eq!(values.0["count"], Value::Integer(4));
    assert_eq!(values.0["mode"], Value::Text("slow".into()));
    assert_eq!(values.0["wide"], Value::Boolean(false));
    assert_eq!(values.0.len(), 5);
    // As Go, Python and JavaScript may write the same.
    for same in [
        r#"{"count":4,"rate":1e8}"#,
        r#" {"rate":100000000.0, "count":4, "wide":false} "#,
    ] {
        let other = declared().check(same).unwrap();
        assert_eq!(values.key("x"), other.key("x"), "{same}");
    }
    assert_ne!(values.key("x"), values.key("y"));
    let other = declared().check(r#"{"rate":100000001,"count":4}"#).unwrap();
    assert_ne!(values.key("x"), other.key("x"));
    assert!(Parameters::default().check("").is_ok());
    assert!(Parameters::default().check("null").is_ok());
}

#[test]
fn what_does_not_fit_is_refused_by_name_and_nothing_unknown_is_taken() {
    let long = format!(r#"{{"rate":1,"note":"{}"}}"#, "x".repeat(MAX_PARAMETERS));
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    for (json, says) in [
        (r#"{"rate":1,"rat":1}"#, "no parameter \"rat\""),
        (r#"{}"#, "missing: rate (a number"),
        (r#"{"rate":"100"}"#, "must be a number from 1"),
        (r#"{"rate":0.5}"#, "must be a number from 1"),
        (r#"{"rate":1e400}"#, "not a JSON object"),
        (r#"{"rate":NaN}"#, "not a JSON object"),
        (r#"{"rate":null}"#, "not null"),
        (r#"{"rate":[1]}"#, "not [1]"),
        (r#"{"rate":1,"count":2.5}"#, "whole number from 1 to 10"),
        (r#"{"rate":1,"count":11}"#, "whole number from 1 to 10"),
        (r#"{"rate":1,"count":true}"#, "whole number"),
        (r#"{"rate":1,"mode":"other"}"#, "one of fast, slow"),
        (r#"{"rate":1,"note":"123456"}"#, "at most 5 bytes"),
        (r#"{"rate":1,"note":"a\u0000b"}"#, "control characters"),
        (r#"{"rate":1,"note":"a\nb"}"#, "control characters"),
        (r#"{"rate":1,"wide":1}"#, "true or false"),
        ("[1]", "not a JSON object"),
        ("{", "not a JSON object"),
        (&long, "longer than"),
        (&deep, "not a JSON object"),
    ] {
        let error = declared().check(json).unwrap_err().to_string();
        let shown: String = json.chars().take(80).collect();
        assert!(error.contains(says), "{shown}: {error}");
    }
    let hostile = declared().check("{\"\u{1b}[2J\u{202e}\":1}").unwrap_err();
    let hostile = hostile.to_string();
    assert!(!hostile.contains('\u{1b}') && !hostile.contains('\u{202e}'));
}

#[test]
fn an_argument_stays_one_whatever_is_put_into_it() {
    let values = Values(
        [
            ("rate".to_owned(), Value::Number(1e6)),
            (
                "note".to_owned(),
                Value::Text("a b; $(reboot) {rate} *".into()),
            ),
        ]
        .into(),
    );
    let fill = |text: &str| Argument::new(text).unwrap().fill(&values, "/tmp/out put");
    assert_eq!(fill("--rate={rate}"), "--rate=1000000");
    assert_eq!(fill("{rate}/{note}"), "1000000/a b; $(reboot) {rate} *");
    assert_eq!(fill("{output}"), "/tmp/out put");
    assert_eq!(fill("{{rate}}"), "{rate}");
    assert_eq!(fill(""), "");
    for wrong in ["{", "}", "{rate", "rate}", "{}", "{a b}", "{-x}", "{{rate}"] {
        assert_eq!(Argument::new(wrong), None, "{wrong}");
    }
    let places = Argument::new("{a}x{b}").unwrap();
    assert_eq!(places.places().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_text_that_begins_an_argument_makes_no_option_of_it() {
    let refused = |argument: &str, request: &str| {
        let values = declared().check(request).unwrap();
        let arguments = [
            Argument::new("-x").unwrap(),
            Argument::new(argument).unwrap(),
        ];
        declared().check_arguments(&arguments, &values).is_err()
    };
    let option = r#"{"rate":1,"note":"-o/x"}"#;
    assert!(refused("{note}", option));
    assert!(refused("{note}{rate}", option));
    // What stands before it may be nothing.
    let empty = Parameter::needed(Kind::Text { max_length: 9 }).or(Value::Text(String::new()));
    let with = |text: &str| {
        let mut declared = declared();
        declared.0.insert("empty".to_owned(), empty.clone());
        let values = declared.check(text).unwrap();
        declared.check_arguments(&[Argument::new("{empty}{note}").unwrap()], &values)
    };
    let error = with(option).unwrap_err().to_string();
    assert!(error.contains("note must not begin"), "{error}");
    assert!(with(r#"{"rate":1,"note":"-o","empty":"a"}"#).is_ok());
    for argument in ["--note={note}", "a{note}", "{rate}{note}", "{output}{note}"] {
        assert!(!refused(argument, option), "{argument}");
    }
    assert!(!refused("{note}", r#"{"rate":1,"note":"o-x"}"#));
    assert!(!refused("{note}", r#"{"rate":1}"#));
    // What the declaration itself says is meant.
    let mut own = declared();
    let mode = own.0.get_mut("mode").unwrap();
    mode.choices = vec![Value::Text("-fast".into()), Value::Text("-slow".into())];
    mode.default = None;
    own.0.get_mut("note").unwrap().default = Some(Value::Text("-n".into()));
    let values = own.check(r#"{"rate":1,"mode":"-fast"}"#).unwrap();
    let arguments = ["{mode}", "{note}"].map(|text| Argument::new(text).unwrap());
    assert_eq!(own.check_arguments(&arguments, &values), Ok(()));
}

#[test]
fn the_built_in_generators_take_what_the_seed_sends() {
    let spectrum = Generator::Spectrum.parameters();
    let json = r#"{"frequency_start":100000000,"frequency_end":200000000,"sample_rate":1000000}"#;
    let values = spectrum.check(json).unwrap();
    assert_eq!(values.number("frequency_end"), 2e8);
    assert_eq!(values.integer("fft_size"), 1024);
    let odd = json.replace('}', ",\"fft_size\":1000}");
    assert!(spectrum.check(&odd).is_err());
    let signal = Generator::Signal.parameters();
    let json = r#"{"duration":1.5,"frequency":100000000,"sample_rate":1000000}"#;
    assert_eq!(signal.check(json).unwrap().number("duration"), 1.5);
}

#[test]
fn all_that_is_missing_is_told_at_once() {
    let error = Generator::Signal.parameters().check(r#"{"seed": 1}"#);
    let said = error.unwrap_err().to_string();
    for name in [
        "duration (a number",
        "frequency (a number",
        "sample_rate (a number",
    ] {
        assert!(said.contains(name), "{said}");
    }
    assert!(!said.contains("seed"), "{said}");
}
