"""The syntax that the corpus needs of each language: how a function, an assignment, a condition and a log line look."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Syntax:
    """One language. `{…}` are slots; a body is indented by `indent`."""

    name: str
    framework: str
    wrappers: tuple[str, ...]
    """Whole samples around `{body}`, with a function `{function}`."""
    assign: str
    """A new variable `{n}` with the value `{e}`."""
    reassign: str
    condition: str
    """`{c}` with a block `{then}`."""
    branch: str
    """`{c}` with blocks `{then}` and `{other}`."""
    negate: str
    leave: str
    """Statement that refuses the request."""
    log: str
    """Statement that logs the text `{t}`."""
    flag: str
    """A condition that is sometimes true, from a name `{n}`."""
    distractors: tuple[str, ...]
    """Harmless statements with a fresh name `{n}` and a number `{k}`."""
    prefix: str = ""
    """Put before variable names."""
    indent: str = "    "


PYTHON = Syntax(
    name="python",
    framework="flask",
    wrappers=(
        "def {function}(request):\n{body}\n    return response\n",
        '@app.route("/{function}", methods=["GET", "POST"])\ndef {function}():\n{body}\n    return response\n',
        "class {Function}View(View):\n    def dispatch(self, request):\n{body2}\n        return response\n",
    ),
    assign="{n} = {e}",
    reassign="{n} = {e}",
    condition="if {c}:\n{then}",
    branch="if {c}:\n{then}\nelse:\n{other}",
    negate="not {c}",
    leave="abort(400)",
    log='logger.info("{t}")',
    flag="settings.{n}",
    distractors=(
        "{n} = len(request.headers)",
        '{n} = settings.get_int("{n}", {k})',
        'metrics.increment("{n}", {k})',
        '{n} = [part.strip() for part in request.path.split("/")][:{k}]',
        "{n} = datetime.utcnow() - timedelta(minutes={k})",
        'response = make_response("", {k})',
    ),
)
JAVA = Syntax(
    name="java",
    framework="servlet",
    wrappers=(
        "public void {function}(HttpServletRequest request, HttpServletResponse response) throws Exception {{\n{body}\n}}\n",
        '@PostMapping("/{function}")\npublic String {function}(HttpServletRequest request, Model model) throws Exception {{\n'
        '{body}\n    return "{function}";\n}}\n',
        "public class {Function}Action {{\n    private final Service service;\n\n    protected Result {function}(Request request) "
        "throws Exception {{\n{body2}\n        return Result.ok();\n    }}\n}}\n",
    ),
    assign="String {n} = {e};",
    reassign="{n} = {e};",
    condition="if ({c}) {{\n{then}\n}}",
    branch="if ({c}) {{\n{then}\n}} else {{\n{other}\n}}",
    negate="!{c}",
    leave='throw new BadRequestException("rejected");',
    log='log.info("{t}");',
    flag="config.is{N}()",
    distractors=(
        'int {n} = config.getInt("{n}", {k});',
        "long {n} = System.currentTimeMillis() + {k}L;",
        'metrics.counter("{n}").add({k});',
        "List<String> {n} = new ArrayList<>({k});",
        'response.setHeader("X-{N}", "{k}");',
    ),
)
JAVASCRIPT = Syntax(
    name="javascript",
    framework="express",
    wrappers=(
        'app.get("/{function}", async (req, res) => {{\n{body}\n    res.end();\n}});\n',
        "async function {function}(req, res, next) {{\n{body}\n    return next();\n}}\n",
        "exports.{function} = async (req, res) => {{\n{body}\n    return res.status(200).end();\n}};\n",
    ),
    assign="let {n} = {e};",
    reassign="{n} = {e};",
    condition="if ({c}) {{\n{then}\n}}",
    branch="if ({c}) {{\n{then}\n}} else {{\n{other}\n}}",
    negate="!{c}",
    leave="return res.status(400).end();",
    log='logger.info("{t}");',
    flag="config.{n}",
    distractors=(
        "const {n} = Number(config.{n} || {k});",
        'metrics.increment("{n}", {k});',
        "const {n} = Date.now() + {k};",
        'const {n} = req.path.split("/").slice(0, {k});',
        'res.set("X-{N}", "{k}");',
    ),
)
PHP = Syntax(
    name="php",
    framework="laravel",
    wrappers=(
        "<?php\nfunction {function}($request, $db)\n{{\n{body}\n    return $response;\n}}\n",
        "<?php\nclass {Function}Controller extends Controller\n{{\n    public function {function}(Request $request)\n    {{\n{body2}\n"
        "        return view('{function}');\n    }}\n}}\n",
    ),
    assign="{n} = {e};",
    reassign="{n} = {e};",
    condition="if ({c}) {{\n{then}\n}}",
    branch="if ({c}) {{\n{then}\n}} else {{\n{other}\n}}",
    negate="!{c}",
    leave="throw new HttpException(400);",
    log="Log::info('{t}');",
    flag="config('app.{bare}')",
    distractors=(
        "{n} = (int) config('app.{bare}', {k});",
        "{n} = microtime(true) + {k};",
        "Metrics::increment('{bare}', {k});",
        "{n} = array_slice(explode('/', $request->path()), 0, {k});",
        "header('X-{N}: {k}');",
    ),
    prefix="$",
)
GO = Syntax(
    name="go",
    framework="net/http",
    wrappers=(
        "func {function}(w http.ResponseWriter, r *http.Request) {{\n{body}\n}}\n",
        "func (s *Server) {Function}(w http.ResponseWriter, r *http.Request) {{\n\tdefer r.Body.Close()\n{body}\n}}\n",
    ),
    assign="{n} := {e}",
    reassign="{n} = {e}",
    condition="if {c} {{\n{then}\n}}",
    branch="if {c} {{\n{then}\n}} else {{\n{other}\n}}",
    negate="!{c}",
    leave='http.Error(w, "rejected", 400)\n{i}return',
    log='log.Println("{t}")',
    flag="cfg.{N}",
    distractors=(
        '{n} := cfg.Int("{n}", {k})',
        'metrics.Add("{n}", {k})',
        "{n} := time.Now().Add({k} * time.Second)",
        '{n} := strings.SplitN(r.URL.Path, "/", {k})',
        'w.Header().Set("X-{N}", "{k}")',
    ),
    indent="\t",
)
C = Syntax(
    name="c",
    framework="",
    wrappers=(
        "int {function}(struct request *req, struct context *ctx)\n{{\n{body}\n    return 0;\n}}\n",
        "static int {function}(struct context *ctx, struct request *req, size_t limit)\n{{\n{body}\n    return ctx->status;\n}}\n",
    ),
    assign="char *{n} = {e};",
    reassign="{n} = {e};",
    condition="if ({c}) {{\n{then}\n}}",
    branch="if ({c}) {{\n{then}\n}} else {{\n{other}\n}}",
    negate="!{c}",
    leave="return -1;",
    log='log_info(ctx, "{t}");',
    flag="ctx->{n}",
    distractors=(
        'int {n} = config_int(ctx, "{n}", {k});',
        "size_t {n} = req->header_count + {k};",
        'metrics_add(ctx, "{n}", {k});',
        "time_t {n} = time(NULL) + {k};",
        "ctx->status = {k};",
    ),
)
LANGUAGES = (PYTHON, JAVA, JAVASCRIPT, PHP, GO, C)
