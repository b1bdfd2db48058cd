"""The weaknesses of the corpus, as data.

A `Flow` is about where a value goes: from a source, past a sanitiser or a check, into a sink; which of them the code
composes rightly is the label. A `Cue` is about one statement that is right or wrong in itself.
In templates `{x}` is the value, `{n}` and `{m}` fresh names, `{k}` a number.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Weakness:
    """One CWE."""

    cwe: str
    category: str
    severities: tuple[str, ...]


@dataclass(frozen=True)
class Flow:
    """A source, a sanitiser expression, a check expression and a sink statement, in one language."""

    weakness: str
    language: str
    source: str
    sanitiser: str
    check: str
    sink: str


@dataclass(frozen=True)
class Cue:
    """A wrong and a right way to write one statement, in one language."""

    weakness: str
    language: str
    wrong: str
    right: str


WEAKNESSES = {
    "sql": Weakness("CWE-89", "injection", ("critical", "high")),
    "command": Weakness("CWE-78", "injection", ("critical",)),
    "code": Weakness("CWE-94", "injection", ("critical",)),
    "xss": Weakness("CWE-79", "injection", ("medium", "high")),
    "path": Weakness("CWE-22", "path_traversal", ("high",)),
    "ssrf": Weakness("CWE-918", "request_forgery", ("high",)),
    "redirect": Weakness("CWE-601", "request_forgery", ("medium",)),
    "deserialisation": Weakness("CWE-502", "injection", ("critical", "high")),
    "log_injection": Weakness("CWE-117", "logging", ("low", "medium")),
    "sensitive_log": Weakness("CWE-532", "logging", ("medium", "high")),
    "weak_hash": Weakness("CWE-328", "crypto", ("medium",)),
    "weak_random": Weakness("CWE-330", "crypto", ("medium",)),
    "tls": Weakness("CWE-295", "crypto", ("high",)),
    "secret": Weakness("CWE-798", "secrets", ("high", "critical")),
    "overflow": Weakness("CWE-120", "memory", ("critical", "high")),
    "index": Weakness("CWE-787", "memory", ("high",)),
    "integer": Weakness("CWE-190", "memory", ("medium", "high")),
    "format": Weakness("CWE-134", "memory", ("high",)),
}

_PY, _JA, _JS, _PHP, _GO, _C = (
    'request.args.get("{p}", "")',
    'request.getParameter("{p}")',
    "req.query.{p}",
    "$request->input('{p}')",
    'r.FormValue("{p}")',
    'request_param(req, "{p}")',
)

FLOWS = (
    Flow(
        "sql",
        "python",
        _PY,
        "db.escape({x})",
        "is_number({x})",
        "rows = db.execute(\"SELECT * FROM {t} WHERE {p} = '%s'\" % {x})",
    ),
    Flow(
        "sql",
        "java",
        _JA,
        "Encoder.forSql({x})",
        "Check.isNumber({x})",
        'statement.executeQuery("SELECT * FROM {t} WHERE {p} = \'" + {x} + "\'");',
    ),
    Flow(
        "sql",
        "javascript",
        _JS,
        "db.escape({x})",
        "isNumber({x})",
        "await db.query(`SELECT * FROM {t} WHERE {p} = '${{{x}}}'`);",
    ),
    Flow(
        "sql",
        "php",
        _PHP,
        "$db->quote({x})",
        "ctype_digit({x})",
        '$db->query("SELECT * FROM {t} WHERE {p} = \'" . {x} . "\'");',
    ),
    Flow(
        "sql",
        "go",
        _GO,
        "sqlutil.Quote({x})",
        "isNumber({x})",
        'db.Query("SELECT * FROM {t} WHERE {p} = \'" + {x} + "\'")',
    ),
    Flow(
        "command",
        "python",
        _PY,
        "shlex.quote({x})",
        "is_hostname({x})",
        'subprocess.run("{t} --{p} " + {x}, shell=True)',
    ),
    Flow(
        "command",
        "java",
        _JA,
        "Shell.quote({x})",
        "Check.isHostname({x})",
        'Runtime.getRuntime().exec("sh -c {t} " + {x});',
    ),
    Flow("command", "javascript", _JS, "shellQuote({x})", "isHostname({x})", "exec(`{t} --{p} ${{{x}}}`);"),
    Flow("command", "php", _PHP, "escapeshellarg({x})", "is_hostname({x})", "shell_exec('{t} --{p} ' . {x});"),
    Flow(
        "command", "go", _GO, "shellescape.Quote({x})", "isHostname({x})", 'exec.Command("sh", "-c", "{t} "+{x}).Run()'
    ),
    Flow("command", "c", _C, "shell_quote(ctx, {x})", "is_hostname({x})", 'run_shell(ctx, "{t} %s", {x});'),
    Flow("code", "python", _PY, "json.dumps({x})", "is_number({x})", 'result = eval("{t}(" + {x} + ")")'),
    Flow("code", "javascript", _JS, "JSON.stringify({x})", "isNumber({x})", 'const result = eval("{t}(" + {x} + ")");'),
    Flow(
        "code", "php", _PHP, "var_export({x}, true)", "ctype_digit({x})", "$result = eval('return {t}(' . {x} . ');');"
    ),
    Flow("xss", "python", _PY, "html.escape({x})", "is_slug({x})", 'response = make_response("<p>" + {x} + "</p>")'),
    Flow(
        "xss",
        "java",
        _JA,
        "Encode.forHtml({x})",
        "Check.isSlug({x})",
        'response.getWriter().write("<p>" + {x} + "</p>");',
    ),
    Flow("xss", "javascript", _JS, "escapeHtml({x})", "isSlug({x})", 'res.write("<p>" + {x} + "</p>");'),
    Flow("xss", "php", _PHP, "htmlspecialchars({x})", "is_slug({x})", "echo '<p>' . {x} . '</p>';"),
    Flow("xss", "go", _GO, "html.EscapeString({x})", "isSlug({x})", 'fmt.Fprint(w, "<p>"+{x}+"</p>")'),
    Flow("path", "python", _PY, "os.path.basename({x})", "is_slug({x})", 'content = open("/srv/{t}/" + {x}).read()'),
    Flow(
        "path",
        "java",
        _JA,
        "FilenameUtils.getName({x})",
        "Check.isSlug({x})",
        'Files.readString(Path.of("/srv/{t}/" + {x}));',
    ),
    Flow("path", "javascript", _JS, "path.basename({x})", "isSlug({x})", 'await fs.readFile("/srv/{t}/" + {x});'),
    Flow("path", "php", _PHP, "basename({x})", "is_slug({x})", "$content = file_get_contents('/srv/{t}/' . {x});"),
    Flow("path", "go", _GO, "filepath.Base({x})", "isSlug({x})", 'os.ReadFile("/srv/{t}/" + {x})'),
    Flow("path", "c", _C, "path_basename({x})", "is_slug({x})", 'open_below(ctx, "/srv/{t}", {x});'),
    Flow(
        "ssrf",
        "python",
        _PY,
        "allowed_host({x})",
        "is_internal_host({x})",
        'body = requests.get("https://" + {x} + "/{t}").text',
    ),
    Flow("ssrf", "java", _JA, "Hosts.allowed({x})", "Hosts.isKnown({x})", 'client.get("https://" + {x} + "/{t}");'),
    Flow("ssrf", "go", _GO, "allowedHost({x})", "isKnownHost({x})", 'http.Get("https://" + {x} + "/{t}")'),
    Flow("redirect", "python", _PY, "local_path({x})", "is_local_path({x})", "response = redirect({x})"),
    Flow("redirect", "javascript", _JS, "localPath({x})", "isLocalPath({x})", "res.redirect({x});"),
    Flow("redirect", "php", _PHP, "local_path({x})", "is_local_path({x})", "header('Location: ' . {x});"),
    Flow(
        "deserialisation",
        "python",
        _PY,
        "signer.unsign({x})",
        "signer.validate({x})",
        "entry = pickle.loads(b64decode({x}))",
    ),
    Flow(
        "deserialisation",
        "java",
        _JA,
        "signer.unsign({x})",
        "signer.isValid({x})",
        "Object entry = Streams.open({x}).readObject();",
    ),
    Flow(
        "deserialisation", "php", _PHP, "$signer->unsign({x})", "$signer->validate({x})", "$entry = unserialize({x});"
    ),
    Flow("log_injection", "java", _JA, "Encoder.oneLine({x})", "Check.isSlug({x})", 'log.warn("{t} {p} " + {x});'),
    Flow("log_injection", "go", _GO, "oneLine({x})", "isSlug({x})", 'log.Printf("{t} {p} " + {x})'),
    Flow(
        "overflow",
        "c",
        _C,
        "truncated(ctx, {x}, sizeof(ctx->{t}))",
        "fits({x}, sizeof(ctx->{t}))",
        "strcpy(ctx->{t}, {x});",
    ),
    Flow("index", "c", _C, "clamped(ctx, {x}, {k})", "below({x}, {k})", "ctx->table[to_int({x})] = ctx->{t};"),
    Flow(
        "integer", "c", _C, "clamped(ctx, {x}, {k})", "below({x}, {k})", "ctx->{t} = malloc(to_int({x}) * sizeof(int));"
    ),
    Flow("format", "c", _C, "escape_percent(ctx, {x})", "is_slug({x})", "syslog(LOG_INFO, {x});"),
)

CUES = (
    Cue(
        "weak_hash",
        "python",
        "{n} = hashlib.md5({x}.encode()).hexdigest()",
        "{n} = hashlib.sha256({x}.encode()).hexdigest()",
    ),
    Cue(
        "weak_hash",
        "java",
        'MessageDigest {n} = MessageDigest.getInstance("MD5");',
        'MessageDigest {n} = MessageDigest.getInstance("SHA-256");',
    ),
    Cue(
        "weak_hash",
        "javascript",
        'const {n} = crypto.createHash("md5").update({x}).digest("hex");',
        'const {n} = crypto.createHash("sha256").update({x}).digest("hex");',
    ),
    Cue("weak_hash", "php", "{n} = md5({x});", "{n} = hash('sha256', {x});"),
    Cue("weak_hash", "go", "{n} := md5.Sum([]byte({x}))", "{n} := sha256.Sum256([]byte({x}))"),
    Cue("weak_random", "python", "{n} = random.randint(0, 10**{k})", "{n} = secrets.randbelow(10**{k})"),
    Cue("weak_random", "java", "Random {n} = new Random({k}L);", "SecureRandom {n} = new SecureRandom();"),
    Cue(
        "weak_random",
        "javascript",
        "const {n} = Math.random().toString({k});",
        'const {n} = crypto.randomBytes({k}).toString("hex");',
    ),
    Cue("weak_random", "php", "{n} = mt_rand(0, {k});", "{n} = random_int(0, {k});"),
    Cue(
        "tls",
        "python",
        "{n} = requests.post(settings.url, data={x}, verify=False)",
        "{n} = requests.post(settings.url, data={x}, verify=True)",
    ),
    Cue(
        "tls",
        "javascript",
        "const {n} = new https.Agent({{ rejectUnauthorized: false }});",
        "const {n} = new https.Agent({{ rejectUnauthorized: true }});",
    ),
    Cue(
        "tls", "go", "{n} := &tls.Config{{InsecureSkipVerify: true}}", "{n} := &tls.Config{{InsecureSkipVerify: false}}"
    ),
    Cue(
        "tls",
        "php",
        "curl_setopt($curl, CURLOPT_SSL_VERIFYPEER, false);",
        "curl_setopt($curl, CURLOPT_SSL_VERIFYPEER, true);",
    ),
    Cue(
        "tls",
        "c",
        "curl_easy_setopt(ctx->curl, CURLOPT_SSL_VERIFYPEER, 0L);",
        "curl_easy_setopt(ctx->curl, CURLOPT_SSL_VERIFYPEER, 1L);",
    ),
    Cue(
        "secret",
        "python",
        '{n} = connect(user="{t}", password="{s}")',
        '{n} = connect(user="{t}", password=settings.password)',
    ),
    Cue(
        "secret",
        "java",
        'Connection {n} = source.getConnection("{t}", "{s}");',
        'Connection {n} = source.getConnection("{t}", config.password());',
    ),
    Cue("secret", "go", '{n} := connect("{t}", "{s}")', '{n} := connect("{t}", cfg.Password)'),
    Cue(
        "sensitive_log",
        "python",
        'logger.info("card %s", order.card_number)',
        'logger.info("card %s", mask(order.card_number))',
    ),
    Cue(
        "sensitive_log",
        "java",
        'log.info("card {{}}", order.getCardNumber());',
        'log.info("card {{}}", Masks.last4(order.getCardNumber()));',
    ),
    Cue(
        "sensitive_log",
        "javascript",
        "logger.info(`card ${{order.cardNumber}}`);",
        "logger.info(`card ${{mask(order.cardNumber)}}`);",
    ),
    Cue(
        "sensitive_log",
        "php",
        "Log::info('card ' . $order->card_number);",
        "Log::info('card ' . mask($order->card_number));",
    ),
    Cue("sensitive_log", "c", "log_info(ctx, order->card_number);", "log_info(ctx, mask(order->card_number));"),
)
