package scripts

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// simple reads one simple command up to the operator behind it.
func (w *walker) simple() {
	var words []token
	var redirects []string
	for w.pos < len(w.tokens) {
		t := w.tokens[w.pos]
		if t.op && strings.ContainsAny(t.text, "<>") {
			if w.pos++; w.pos < len(w.tokens) && !w.tokens[w.pos].op {
				if t.text != "<" {
					redirects = append(redirects, w.tokens[w.pos].text)
				}
				words = addSubs(words, w.tokens[w.pos])
				w.pos++
			}
			continue
		}
		if t.op {
			break
		}
		words = append(words, t)
		w.pos++
	}
	next := ""
	if w.pos < len(w.tokens) {
		next = w.tokens[w.pos].text
	}
	w.take(words, redirects, next)
}

// addSubs keeps the substitutions of a redirection's target without its text.
func addSubs(words []token, t token) []token {
	if len(t.subs) == 0 || len(words) == 0 {
		return words
	}
	words[len(words)-1].subs = append(words[len(words)-1].subs, t.subs...)
	return words
}

var assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)

// take notes a command, what it runs by other programs, and what its substitutions run.
func (w *walker) take(words []token, redirects []string, next string) {
	var texts []string
	for _, t := range words {
		texts = append(texts, t.text)
	}
	text := " " + strings.Join(texts, " ")
	live, skip, cond := w.context()
	before := strings.Join(w.list, " ")
	if needsLive(before) {
		live = true
	}
	skip = skip || w.otherAction(before)
	required := w.careful && !cond && next != "||" && next != "&&" && next != "|" && next != "&"
	if next == "||" {
		text += " " + orElse
	}
	w.list = append(w.list, text)
	for _, f := range w.frames {
		if f.inCond {
			f.cond = append(f.cond, text)
		}
	}
	if w.last = -1; skip || len(words) == 0 {
		return
	}
	add := func(name string, args []string, line int) {
		w.found = append(w.found, command{name: name, args: args, line: line, required: required, live: live})
	}
	for _, t := range words {
		for _, sub := range t.subs {
			w.inner(sub, t.line, live, false)
		}
	}
	for len(words) > 0 && assignment.MatchString(words[0].text) {
		words, texts = words[1:], texts[1:]
	}
	if len(words) == 0 {
		return
	}
	line := words[0].line
	for _, target := range redirects {
		if strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "/sys/") {
			add(">", []string{target}, line)
		}
	}
	if texts[0] == "set" && len(texts) > 1 && strings.HasPrefix(texts[1], "-") && strings.Contains(texts[1], "e") {
		w.careful = true
	}
	w.unwrap(texts, line, live, required, add)
	if next != "&" {
		w.last = len(w.found) - 1
	}
}

// context is what the open frames say about a command.
func (w *walker) context() (live, skip, cond bool) {
	for _, f := range w.frames {
		live, skip, cond = live || f.live, skip || f.skip, cond || f.inCond
	}
	return live, skip, cond
}

// inner reads a text that is a script itself.
func (w *walker) inner(text string, line int, live, required bool) {
	if w.depth >= maxDepth {
		return
	}
	for _, c := range commands(text, w.careful, w.count, w.depth+1) {
		c.line, c.live, c.required = line, c.live || live, c.required && required
		w.found = append(w.found, c)
	}
}

// wrappers run the command that their arguments name; the value says how many of their own come first.
var wrappers = map[string]int{
	"exec": 0, "command": 0, "env": 0, "nice": 0, "ionice": 0, "nohup": 0, "setsid": 0, "eval": 0, "xargs": 0, "time": 0, "timeout": 1, "chroot": 1, "sudo": 0, "setpriv": 0, "choom": 0,
	"runuser": 0, "su": 0, "sh": 0, "bash": 0, "dash": 0, "flock": 1, "chronic": 0,
}

// unwrap follows the programs that run others: env, su -c, sh -c and their like.
func (w *walker) unwrap(texts []string, line int, live, required bool, add func(string, []string, int)) {
	for range maxDepth {
		name := base(texts[0])
		own, wraps := wrappers[name]
		if !wraps || len(texts) == 1 {
			break
		}
		if at := slices.Index(texts, "-c"); at > 0 && at+1 < len(texts) && name != "ionice" && name != "choom" {
			w.inner(texts[at+1], line, live, required)
			return
		}
		if name == "command" && (texts[1] == "-v" || texts[1] == "-V") {
			return
		}
		if name == "su" || name == "sh" || name == "bash" || name == "dash" {
			break
		}
		rest := texts[1:]
		for len(rest) > 0 && (strings.HasPrefix(rest[0], "-") || assignment.MatchString(rest[0])) {
			rest = rest[1:]
		}
		rest = rest[min(own, len(rest)):]
		if len(rest) == 0 {
			return
		}
		if name == "eval" {
			w.inner(strings.Join(rest, " "), line, live, required)
			return
		}
		texts = rest
	}
	add(base(texts[0]), texts[1:], line)
}

func base(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// liveTests are what a condition asks to find out whether the system runs. In the sandbox all of it is absent.
var liveTests = regexp.MustCompile(`/run/systemd|/run/udev|/run/[a-z]|/var/run/|\$\{?(PIDFILE|pidfile)|\bpidof\b|\bpgrep\b|is-active|is-system-running|\bstatus\b|mysqladmin|mariadb-admin|/proc/[a-z0-9]|/sys/|\bps\b|-S /|running_in|ischroot|invoke-rc\.d|rc-service`)

func needsLive(cond string) bool { return liveTests.MatchString(cond) }

// negated reports a condition that holds where the system does not run; ischroot is one by itself.
func negated(cond string) bool {
	text := strings.TrimSpace(cond)
	not := strings.HasPrefix(text, "!") || strings.Contains(text, "[ ! ") || strings.Contains(text, "test ! ")
	return not != strings.Contains(text, "ischroot")
}

var actionTest = regexp.MustCompile(`\$\{?1\}? *(?:=|==) *x?([a-z-]+)`)

// orElse stands for || in a condition.
const orElse = "||"

var countTest = regexp.MustCompile(`\$\{?1(?::-[0-9]*)?\}? *(-eq|-ne|-gt|-ge|-lt|-le|=|==|!=) *([0-9]+)`)

// otherAction reports a condition that only another action than an upgrade meets.
func (w *walker) otherAction(cond string) bool {
	if w.count != 0 {
		return w.otherCount(cond)
	}
	all := actionTest.FindAllStringSubmatch(cond, -1)
	return len(all) > 0 && !strings.Contains(cond, "!") && !slices.ContainsFunc(all, func(m []string) bool { return w.ofUpgrade(m[1]) })
}

// otherCount is otherAction for a scriptlet of rpm: a test of $1 in it is not met, and nothing else makes up for it.
func (w *walker) otherCount(cond string) bool {
	if w.count == unknownCount || strings.Contains(cond, orElse) || strings.Contains(cond, " -o ") || strings.Contains(" "+cond, " ! ") {
		return false
	}
	return slices.ContainsFunc(countTest.FindAllStringSubmatch(cond, -1), func(m []string) bool {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			return false
		}
		switch m[1] {
		case "-eq", "=", "==":
			return w.count != n
		case "-ne", "!=":
			return w.count == n
		case "-gt":
			return w.count <= n
		case "-ge":
			return w.count < n
		case "-lt":
			return w.count >= n
		}
		return w.count > n // -le
	})
}
