//! What is refused, and the exact words.

use super::faults;

/// Below `app = "shop"`, so the case's first line is line 2.
fn cases() -> Vec<(&'static str, &'static str)> {
    vec![
        // Unknown keys: the nearest, the right table, or the list.
        ("[process.web]\ncout = 3", "3: unknown key \"cout\" in [process.web]: did you mean \"count\"?"),
        (
            "[process.web]\nreplicas = 3",
            "3: unknown key \"replicas\" in [process.web]: did you mean \"count\"?",
        ),
        ("imge = \"a\"", "2: unknown key \"imge\" at the top level: did you mean \"image\"?"),
        ("count = 3", "2: unknown key \"count\" at the top level: it belongs in [process.web]"),
        ("[process.web]\nhost = \"a\"", "3: unknown key \"host\" in [process.web]: it belongs in [[route]]"),
        (
            "[process.web]\nsignal = \"TERM\"",
            "3: unknown key \"signal\" in [process.web]: it belongs in stop = { … }",
        ),
        (
            "[deploy]\nzebra = 1",
            "3: unknown key \"zebra\" in [deploy]: known keys are strategy, max_surge, max_unavailable, deadline, auto_revert",
        ),
        (
            "[process.web]\nhealth = { htp = \"/\" }",
            "3: unknown key \"htp\" in [process.web] health: did you mean \"http\"?",
        ),
        (
            "[process.web]\nstop = { sgnal = \"TERM\" }",
            "3: unknown key \"sgnal\" in [process.web] stop: did you mean \"signal\"?",
        ),
        (
            "[[route]]\nhots = \"a\"\npath = \"/\"",
            "3: unknown key \"hots\" in [[route]]: did you mean \"host\"?",
        ),
        (
            "[build]\nstatc = \"a\"",
            "2: [build] needs static = \"FOLDER\"\n3: unknown key \"statc\" in [build]: did you mean \"static\"?",
        ),
        // Later work, by name.
        ("config = [\"common\"]", "2: \"config\" at the top level is not supported yet: remove it"),
        ("[[job]]\nname = \"nightly\"", "2: \"job\" at the top level is not supported yet: remove it"),
        (
            "[build]\ndockerfile = \"Dockerfile\"",
            "2: [build] needs static = \"FOLDER\"\n3: \"dockerfile\" in [build] is not supported yet: remove it",
        ),
        ("[process.web]\nper_zone = 1", "3: \"per_zone\" in [process.web] is not supported yet: remove it"),
        (
            "[process.web]\nwhere = { disk = \"ssd\" }",
            "3: \"where\" in [process.web] is not supported yet: remove it",
        ),
        (
            "[process.web]\nmax_per = { zone = 2 }",
            "3: \"max_per\" in [process.web] is not supported yet: remove it",
        ),
        (
            "[process.web]\nuptests = \"/u\"",
            "3: \"uptests\" in [process.web] is not supported yet: remove it",
        ),
        ("[process.web]\nvolumes = []", "3: \"volumes\" in [process.web] is not supported yet: remove it"),
        (
            "[deploy]\nrelease_command = [\"/m\"]",
            "3: \"release_command\" in [deploy] is not supported yet: remove it",
        ),
        ("[deploy]\ncanary = { weight = 5 }", "3: \"canary\" in [deploy] is not supported yet: remove it"),
        (
            "[deploy]\nstrategy = \"bluegreen\"",
            "3: \"strategy\" in [deploy] \"bluegreen\" is not supported yet: use \"rolling\" or \"recreate\"",
        ),
        (
            "[env]\nDB = { secret = \"db\" }",
            "3: \"DB\" in [env] takes a secret, which is not supported yet: remove it",
        ),
        (
            "[[route]]\nhost = \"a.example\"\ntcp = 1",
            "4: \"tcp\" in [[route]] is not supported yet: remove it",
        ),
        // Wrong types say what was expected, with an example.
        (
            "image = 1",
            "2: \"image\" at the top level must be an image's name in quotes, such as \"shop:1.4\"; it is a number",
        ),
        (
            "env = \"a\"",
            "2: \"env\" at the top level must be a table, such as { LOG_LEVEL = \"info\" }; it is a string",
        ),
        ("[env]\nPORTS = 80", "3: \"PORTS\" in [env] must be a string: write PORTS = \"80\"; it is a number"),
        (
            "[env]\nDEBUG = true",
            "3: \"DEBUG\" in [env] must be a string: write DEBUG = \"true\"; it is true or false",
        ),
        ("[env]\nLIST = [\"a\"]", "3: \"LIST\" in [env] must be a string, such as \"info\"; it is a list"),
        (
            "process = []",
            "2: \"process\" at the top level must be a table, such as [process.web]; it is a list",
        ),
        (
            "[process]\ncommand = [\"/a\"]",
            "3: \"command\" in [process] needs its process's name: write it below [process.web]",
        ),
        (
            "[process]\nweb = 1",
            "3: \"web\" in [process] must be a table, such as [process.web]; it is a number",
        ),
        (
            "[process.web]\ncommand = \"a b\"",
            "3: \"command\" in [process.web] must be a list of strings, such as [\"/app/server\", \"--verbose\"] or, for a shell, [\"sh\", \"-c\", \"a b\"]; it is a string",
        ),
        (
            "[process.web]\ncommand = [\"a\", 1]",
            "3: \"command\" in [process.web] must be a list of strings: item 2 is a number",
        ),
        (
            "[process.web]\ncount = \"3\"",
            "3: \"count\" in [process.web] must be a whole number without quotes, such as 3; it is a string",
        ),
        (
            "[process.web]\ncount = 1.5",
            "3: \"count\" in [process.web] must be a whole number without quotes, such as 3; it is a number with a fraction",
        ),
        (
            "[process.web]\nmemory = 256",
            "3: \"memory\" in [process.web] must be a size with its unit in quotes, such as \"256MB\"; it is a number",
        ),
        (
            "[process.web]\ncpu = true",
            "3: \"cpu\" in [process.web] must be a part of a core in quotes, such as \"250m\" or \"2\"; it is true or false",
        ),
        (
            "[process.web]\nread_only = \"yes\"",
            "3: \"read_only\" in [process.web] must be true or false; it is a string",
        ),
        (
            "[process.web]\nhealth = \"/healthz\"",
            "3: \"health\" in [process.web] must be a table, such as { http = \"/healthz\" }; it is a string",
        ),
        (
            "[process.web]\nhealth = { interval = 2 }",
            "3: \"interval\" in [process.web] health must be a duration with its unit in quotes, such as \"2s\"; it is a number",
        ),
        (
            "[route]\nhost = \"a.example\"",
            "2: \"route\" at the top level must be a list of tables, each written [[route]]; it is a table",
        ),
        (
            "[deploy]\nmax_surge = true",
            "3: \"max_surge\" in [deploy] must be a number of instances, such as 1, or a part of them in quotes, such as \"25%\"; it is true or false",
        ),
        ("[deploy]\nauto_revert = 1", "3: \"auto_revert\" in [deploy] must be true or false; it is a number"),
        // Values.
        (
            "image = \"a b\"",
            "2: \"image\" at the top level must be an image's name, such as \"shop:1.4\"; it is \"a b\"",
        ),
        ("[build]\nstatic = \"\"", "3: \"static\" in [build] must name a folder; it is \"\""),
        (
            "image = \"a\"\n[build]\nstatic = \"p\"",
            "3: \"build\" at the top level comes beside \"image\": an app is either built or given as an image",
        ),
        (
            "[process.web]\ncommand = []",
            "3: \"command\" in [process.web] must name a program, such as [\"/app/server\"]; it is empty",
        ),
        (
            "[process.web]\ncommand = [\"a\\u0000\"]",
            "3: \"command\" in [process.web] has a NUL character, which no program can be given",
        ),
        ("[process.web]\ncount = -1", "3: \"count\" in [process.web] must be from 0 to 10000; it is -1"),
        (
            "[process.web]\ncount = 10001",
            "3: \"count\" in [process.web] must be from 0 to 10000; it is 10001",
        ),
        (
            "[process.web]\ncount = 99999999999999999999999999999999999999999",
            "3: \"count\" in [process.web] must be from 0 to 10000; it is 99999999999999999999999999999999999999999",
        ),
        (
            "[process.web]\ncpu = \"0\"",
            "3: \"cpu\" in [process.web] must be from \"1m\" to \"1024\"; it is \"0\"",
        ),
        (
            "[process.web]\ncpu = \"2 cores\"",
            "3: \"cpu\" in [process.web] must be a part of a core, such as \"250m\", \"0.5\" or \"2\"; it is \"2 cores\"",
        ),
        (
            "[process.web]\ncpu = \"1\"\ncpu_max = \"500m\"",
            "4: \"cpu_max\" in [process.web] caps the process below what it reserves: cpu_max is 500m, cpu is 1",
        ),
        (
            "[process.web]\nmemory = \"512Mi\"",
            "3: \"memory\" in [process.web] must name its unit in full: write \"512MiB\" for \"512Mi\"",
        ),
        (
            "[process.web]\nmemory = \"1MB\"",
            "3: \"memory\" in [process.web] must be from \"4MB\" to \"64TB\"; it is 1 MB",
        ),
        (
            "[process.web]\nmemory = \"99999999TB\"",
            "3: \"memory\" in [process.web] is too large: \"99999999TB\"",
        ),
        ("[process.web]\nport = 0", "3: \"port\" in [process.web] must be from 1 to 65535; it is 0"),
        ("[process.web]\nport = 65536", "3: \"port\" in [process.web] must be from 1 to 65535; it is 65536"),
        ("[process.web]\npids = 0", "3: \"pids\" in [process.web] must be from 1 to 4194304; it is 0"),
        (
            "[process.web]\nuserns = \"none\"",
            "3: \"userns\" in [process.web] must be \"private\" (the default) or \"host\"; it is \"none\"",
        ),
        (
            "[process.web]\nhealth = { http = \"healthz\" }",
            "3: \"http\" in [process.web] health must start with \"/\"; it is \"healthz\"",
        ),
        (
            "[process.web]\nhealth = { http = \"/a b\" }",
            "3: \"http\" in [process.web] health has the character ' ', which a request's path cannot have; it is \"/a b\"",
        ),
        (
            "[process.web]\nhealth = { http = \"/\", tcp = true }",
            "3: \"tcp\" in [process.web] health comes beside \"http\": a process has one check",
        ),
        (
            "[process.web]\nhealth = { tcp = false }",
            "3: \"tcp\" in [process.web] health cannot be false: use http or command for another kind of check",
        ),
        (
            "[process.web]\nhealth = { interval = \"1ms\" }",
            "3: \"interval\" in [process.web] health must be from \"100ms\" to \"1h\"; it is 1ms",
        ),
        (
            "[process.web]\nhealth = { grace = \"forever\" }",
            "3: \"grace\" in [process.web] health must be a duration with its unit, such as \"500ms\", \"10s\" or \"5m\"; it is \"forever\"",
        ),
        (
            "[process.web]\nhealth = { unhealthy = 0 }",
            "3: \"unhealthy\" in [process.web] health must be from 1 to 1000; it is 0",
        ),
        (
            "[process.worker]\nhealth = { http = \"/\" }",
            "2: [process.worker] has a health check by http but no port: add port = 8080",
        ),
        (
            "[process.web]\nstop = { signal = \"TREM\" }",
            "3: \"signal\" in [process.web] stop must be a signal that can stop a program, such as \"TERM\" or \"QUIT\"; it is \"TREM\"",
        ),
        (
            "[process.web]\nstop = { signal = \"sigterm\" }",
            "3: \"signal\" in [process.web] stop must be written in capitals, \"TERM\"; it is \"sigterm\"",
        ),
        (
            "[process.web]\nstop = { signal = \"STOP\" }",
            "3: \"signal\" in [process.web] stop freezes the program instead of ending it: \"STOP\"",
        ),
        (
            "[process.web]\nstop = { signal = \"RTMIN+31\" }",
            "3: \"signal\" in [process.web] stop must be a signal that can stop a program, such as \"TERM\" or \"QUIT\"; it is \"RTMIN+31\"",
        ),
        (
            "[process.web]\nstop = { grace = \"2h\" }",
            "3: \"grace\" in [process.web] stop must be from \"0s\" to \"1h\"; it is 2h",
        ),
        (
            "[process.Web_1]",
            "2: \"Web_1\" in [process] is no process: process name \"Web_1\" has characters other than a-z, 0-9 and hyphen",
        ),
        (
            "[env]\n\"A=B\" = \"1\"",
            "3: \"A=B\" in [env] cannot be a variable's name: it has '=', white space or a control character",
        ),
        ("[env]\n\"\" = \"1\"", "3: \"\" in [env] must have a name of 1 to 256 characters"),
        ("[env]\nA = \"\\u0000\"", "3: \"A\" in [env] has a NUL character, which no variable can hold"),
        (
            "[env]\nPORT = \"80\"",
            "3: \"PORT\" in [env] is set by nodectl to the process's port: remove it, and write port = 8080 instead (process web)",
        ),
        (
            "[process.web]\nenv = { PORT = \"80\" }",
            "2: \"PORT\" in [process.web] env is set by nodectl to the process's port: remove it, and write port = 8080 instead",
        ),
        (
            "[[route]]",
            "2: a [[route]] needs a host, such as \"shop.example.com\", or a path, such as \"/api\"",
        ),
        (
            "[[route]]\nhost = \"https://a.example\"",
            "3: \"host\" in [[route]] must be a host name without a scheme; it is \"https://a.example\"",
        ),
        (
            "[[route]]\nhost = \"a.example:80\"",
            "3: \"host\" in [[route]] must be a host name without a port, such as \"a.example\"; it is \"a.example:80\"",
        ),
        (
            "[[route]]\nhost = \"a.example/x\"",
            "3: \"host\" in [[route]] must be a host name: write host = \"a.example\", path = \"/x\"",
        ),
        (
            "[[route]]\nhost = \"*.example\"",
            "3: \"host\" in [[route]] has a wildcard, which is not supported yet; it is \"*.example\"",
        ),
        (
            "[[route]]\nhost = \"a_b.example\"",
            "3: \"host\" in [[route]] must be a host name, such as \"shop.example.com\"; it is \"a_b.example\"",
        ),
        (
            "[[route]]\nhost = \"müller.example\"",
            "3: \"host\" in [[route]] must be written in its ASCII form, xn--…; it is \"müller.example\"",
        ),
        ("[[route]]\npath = \"api\"", "3: \"path\" in [[route]] must start with \"/\"; it is \"api\""),
        (
            "[[route]]\npath = \"/a/../b\"",
            "3: \"path\" in [[route]] has an empty segment, \".\" or \"..\"; it is \"/a/../b\"",
        ),
        (
            "[[route]]\npath = \"//\"",
            "3: \"path\" in [[route]] has an empty segment, \".\" or \"..\"; it is \"//\"",
        ),
        (
            "[[route]]\npath = \"/api/*\"",
            "3: \"path\" in [[route]] matches everything below it already: write it without \"*\"; it is \"/api/*\"",
        ),
        (
            "[[route]]\npath = \"/a%2fb\"",
            "3: \"path\" in [[route]] has the character '%', which a route's path cannot have; it is \"/a%2fb\"",
        ),
        (
            "[[route]]\npath = \"/\"\nprocess = \"wev\"",
            "2: the route */ leads to process wev, which is not here: did you mean \"web\"?",
        ),
        (
            "[process.web]\n[process.worker]\n[[route]]\npath = \"/\"\nprocess = \"worker\"",
            "4: the route */ leads to process worker, which has no port: add port = 8080 to [process.worker]",
        ),
        (
            "[process.worker]\n[[route]]\npath = \"/\"",
            "3: no process has a port for this route to lead to: add port = 8080 to one",
        ),
        (
            "[[route]]\nhost = \"a.example\"\n[[route]]\nhost = \"A.example\"\npath = \"/\"",
            "4: the route a.example/ stands in line 2 already",
        ),
        (
            "[deploy]\nstrategy = \"fast\"",
            "3: \"strategy\" in [deploy] must be \"rolling\" or \"recreate\"; it is \"fast\"",
        ),
        (
            "[deploy]\nmax_surge = \"25\"",
            "3: \"max_surge\" in [deploy] must be a number of instances, such as 1, or a part of them, such as \"25%\"; it is \"25\"",
        ),
        (
            "[deploy]\nmax_surge = \"200%\"",
            "3: \"max_surge\" in [deploy] must be at most \"100%\": \"200%\" is more",
        ),
        (
            "[deploy]\nmax_surge = \"0%\"",
            "3: \"max_surge\" in [deploy] and max_unavailable cannot both be 0: nothing could ever be replaced",
        ),
        (
            "[deploy]\nstrategy = \"recreate\"\nmax_surge = 1",
            "4: \"max_surge\" in [deploy] has no meaning with strategy \"recreate\", which stops everything first: remove it",
        ),
        (
            "[deploy]\ndeadline = \"0s\"",
            "3: \"deadline\" in [deploy] must be from \"1s\" to \"24h\"; it is 0s",
        ),
    ]
}

#[test]
fn a_fault_names_its_line_its_key_and_what_to_write() {
    for (text, expected) in cases() {
        let expected: Vec<String> = expected.lines().map(|line| format!("nodectl.toml:{line}")).collect();
        assert_eq!(faults(&format!("app = \"shop\"\n{text}")), expected.join("\n"), "{text}");
    }
}

#[test]
fn the_app_s_name_is_asked_for() {
    for (text, expected) in [
        ("", "nodectl.toml:1: \"app\" is missing: add app = \"NAME\" as the first line"),
        (
            "image = \"a\"\n[env]\nA = \"1\"\napp = \"shop\"",
            "nodectl.toml:1: \"app\" is missing: line 4 sets it inside [env]; move it above the first [table]",
        ),
        (
            "app = 1",
            "nodectl.toml:1: \"app\" at the top level must be a name in quotes, such as \"shop\"; it is a number",
        ),
        (
            "app = \"My_Shop\"",
            "nodectl.toml:1: \"app\" at the top level is no name: app name \"My_Shop\" has characters other than a-z, 0-9 and hyphen",
        ),
    ] {
        assert_eq!(faults(text), expected);
    }
}

#[test]
fn all_faults_are_told_at_once_in_the_order_of_the_file() {
    let text = "app = \"Shop\"\nimge = \"a\"\n[process.web]\ncout = 3\nport = 0\n[[route]]\nhost = \"*\"\n[deploy]\ndeadline = 5\n";
    assert_eq!(
        faults(text).lines().map(|line| line.split(' ').next().unwrap_or_default()).collect::<Vec<_>>(),
        [
            "nodectl.toml:1:",
            "nodectl.toml:2:",
            "nodectl.toml:4:",
            "nodectl.toml:5:",
            "nodectl.toml:7:",
            "nodectl.toml:9:"
        ]
    );
}

#[test]
fn what_is_not_toml_says_where() {
    for (text, line) in [
        ("app = \"shop\"\nimage = shop\n", 2),
        ("app = \"shop\"\napp = \"other\"\n", 2),
        ("app = \"shop\n", 1),
        ("app = \"shop\"\n[process.web\n", 2),
        ("a = 1\r\n\r\n]", 3),
        ("\u{0}", 1),
    ] {
        let told = faults(text);
        assert!(told.starts_with(&format!("nodectl.toml:{line}: not valid TOML: ")), "{text:?}: {told}");
    }
}

#[test]
fn hostile_texts_end_in_faults_and_not_in_a_panic() {
    let deep = format!("app = {}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let dotted = format!("{}=1", vec!["a"; 100_000].join("."));
    let wide = (0..20_000).map(|n| format!("k{n} = 1\n")).collect::<String>();
    let long = format!("{} = 1", "x".repeat(400_000));
    let huge = "#".repeat(crate::model::manifest::TEXT_BYTES_MAX + 1);
    let processes = (0..51).map(|n| format!("[process.p{n}]\n")).collect::<String>();
    for text in [&deep, &dotted, &wide, &long, &huge, &processes] {
        assert!(!faults(text).is_empty());
    }
    let told = faults(&wide);
    assert_eq!(told.lines().count(), 101);
    assert!(told.ends_with(" faults, once these are mended"), "{told}");
}

#[test]
fn no_prefix_of_a_manifest_makes_the_reader_panic() {
    let text = "app = \"shop\"\n[process.web]\nhealth = { http = \"/é\", interval = \"2s\" }\n[[route]]\nhost = \"ü.example\"\n[deploy]\nmax_surge = \"25%\"\n";
    for (end, _) in text.char_indices() {
        // Whatever it says, it returns.
        let _verdict = super::parse("nodectl.toml", &text[..end]);
    }
}
