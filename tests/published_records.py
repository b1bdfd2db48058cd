"""One record of each published dataset's layout."""

DEVIGN = {"project": "FFmpeg", "commit_id": "973b1a6b", "target": 0, "func": "static int f(void) { return 0; }"}
BIG_VUL = {
    "": 7,
    "CVE ID": "CVE-2011-3638",
    "CWE ID": "CWE-362",
    "commit_id": "667eff35",
    "project": "linux",
    "lang": "C",
    "flaw_line_index": "2,3",
    "func_before": "int f(int x) { return g(x); }",
    "func_after": "int f(int x) { return x ? g(x) : 0; }",
    "vul": 1,
}
PRIMEVUL = {
    "idx": 31,
    "project": "gpac",
    "commit_id": "a1",
    "cwe": ["CWE-787"],
    "cve": "CVE-1",
    "target": 1,
    "func": "void f() { g(); }",
}
DIVERSEVUL = {
    "func": "void f() {}",
    "target": 1,
    "cwe": ["CWE-20", "CWE-79"],
    "project": "gnutls",
    "commit_id": "b2",
    "message": "m",
}
SVEN = {
    "func_name": "run",
    "func_src_before": "def run(c):\n    os.system(c)\n",
    "func_src_after": "def run(c):\n    subprocess.run([c])\n",
    "line_changes": {"deleted": [{"line_no": 2, "line": "os.system(c)"}], "added": []},
    "commit_link": "github.com/a/b/commit/1",
    "file_name": "a/run.py",
    "vul_type": "cwe-078",
}
