package scripts

import (
	"slices"
	"strconv"
	"strings"
)

// command is one simple command of a script, with what the lines around it say.
type command struct {
	name     string   // without its folder
	args     []string // behind the name
	line     int
	required bool // the script fails where it fails
	live     bool // a test before it lets it run on a running system only
}

// text is the command as people are shown it.
func (c command) text() string {
	text := strings.Join(strings.Fields(c.name+" "+strings.Join(c.args, " ")), " ")
	if len(text) > maxText {
		text = text[:maxText] + "…"
	}
	return strings.ToValidUTF8(text, "?")
}

// maxText bounds how much of a command people are shown, in bytes.
const maxText = 80

// frame is an open if, loop, case or group.
type frame struct {
	kind     string // if, loop, case, group
	cond     []string
	inCond   bool
	live     bool // what is in it runs on a running system only
	skip     bool // what is in it does not run in an upgrade
	elseLive bool
	subject  string // of a case
	pattern  bool   // a case's next words are patterns
	patterns []string
}

// walker goes through the tokens and keeps the open frames. It is a rough reading: what it does not know runs.
type walker struct {
	tokens    []token
	pos       int
	frames    []*frame
	careful   bool // set -e
	count     int  // $1 of a scriptlet of rpm; 0 for dpkg's scripts
	functions map[string]bool
	list      []string // the texts of the and-or list so far
	found     []command
	last      int // of found, the command that the script ends with; -1 where that does not run
	depth     int
}

// maxDepth bounds how deep substitutions and -c texts may nest.
const maxDepth = 8

// unknownCount is a $1 of rpm of which no test can be decided.
const unknownCount = -1

// commands lists the simple commands that an upgrade runs. count is $1 of a scriptlet of rpm, 0 of a script of dpkg.
func commands(src string, careful bool, count, depth int) []command {
	w := &walker{tokens: lex(src), careful: careful, count: count, last: -1, functions: map[string]bool{}, depth: depth}
	first, _, _ := strings.Cut(src, "\n")
	if strings.HasPrefix(first, "#!") && strings.Contains(first, " -e") {
		w.careful = true
	}
	for w.pos < len(w.tokens) {
		w.step()
	}
	if count != 0 && depth == 0 && w.last >= 0 && w.last < len(w.found) {
		w.found[w.last].required = true // its status is the scriptlet's
	}
	return slices.DeleteFunc(w.found, func(c command) bool { return w.functions[c.name] })
}

func (w *walker) top() *frame {
	if len(w.frames) == 0 {
		return &frame{}
	}
	return w.frames[len(w.frames)-1]
}

func (w *walker) push(f *frame) { w.frames = append(w.frames, f) }

// pop closes the innermost frame where it is of the kind.
func (w *walker) pop(kind string) {
	if w.top().kind == kind {
		w.frames = w.frames[:len(w.frames)-1]
	}
}

// step reads what begins where a command may begin.
func (w *walker) step() {
	t := w.tokens[w.pos]
	if f := w.top(); f.kind == "case" && f.pattern && (!t.bare || t.text != "esac") {
		w.readPattern(f)
		return
	}
	if t.op {
		w.pos++
		w.atOperator(t.text)
		return
	}
	if t.bare && w.keyword(t.text) {
		return
	}
	w.simple()
}

func (w *walker) atOperator(op string) {
	switch op {
	case "(":
		w.push(&frame{kind: "group"})
	case ")":
		w.pop("group")
	case ";;":
		if f := w.top(); f.kind == "case" {
			f.pattern, f.patterns, f.skip = true, nil, false
		}
		w.list = nil
	case ";", "\n", "&":
		w.list = nil
	}
}

// readPattern reads up to the ")" of a case's branch. Of a case over the script's first argument, only the branches of
// an upgrade are run (https://www.debian.org/doc/debian-policy/ch-maintainerscripts.html).
func (w *walker) readPattern(f *frame) {
	t := w.tokens[w.pos]
	w.pos++
	switch {
	case t.op && t.text == ")":
		f.pattern = false
		f.skip = f.subject == "$1" && !slices.ContainsFunc(f.patterns, w.ofUpgrade)
	case !t.op:
		f.patterns = append(f.patterns, t.text)
	}
}

// ofUpgrade reports whether a pattern for the script's first argument is met in an upgrade.
func (w *walker) ofUpgrade(action string) bool {
	if w.count != 0 {
		return w.count == unknownCount || action == strconv.Itoa(w.count) || strings.ContainsAny(action, "*?[$")
	}
	switch action {
	case "configure", "upgrade", "install", "triggered", "reconfigure":
		return true
	}
	return strings.ContainsAny(action, "*?[$")
}

// keyword handles a word of the shell's own; false where it is none.
func (w *walker) keyword(text string) bool {
	switch text {
	case "if":
		w.push(&frame{kind: "if", inCond: true})
	case "then":
		w.then()
	case "elif":
		if f := w.top(); f.kind == "if" {
			f.live, f.skip, f.inCond, f.cond = f.elseLive, false, true, nil
		}
	case "else":
		if f := w.top(); f.kind == "if" {
			f.live, f.skip = f.elseLive, false
		}
	case "fi":
		w.pop("if")
	case "while", "until":
		w.push(&frame{kind: "loop", inCond: true})
	case "do":
		w.top().inCond = false
	case "done":
		w.pop("loop")
	case "for", "select":
		w.push(&frame{kind: "loop"})
		w.skipTo("do", ";", "\n")
		return true
	case "case":
		w.openCase()
		return true
	case "esac":
		w.pop("case")
	case "{":
		w.push(&frame{kind: "group"})
	case "}":
		w.pop("group")
	case "!":
		for _, f := range w.frames {
			if f.inCond {
				f.cond = append(f.cond, "!")
			}
		}
	case "time":
	default:
		return w.function(text)
	}
	if text != "!" {
		w.list = nil
	}
	w.pos++
	return true
}

// then decides from an if's condition who runs what follows.
func (w *walker) then() {
	f := w.top()
	if f.kind != "if" {
		return
	}
	text := strings.Join(f.cond, " ")
	f.inCond = false
	f.skip = w.otherAction(text)
	if needsLive(text) {
		if negated(text) {
			f.elseLive = true
		} else {
			f.live = true
		}
	}
}

func (w *walker) openCase() {
	w.pos++
	f := &frame{kind: "case", pattern: true}
	if w.pos < len(w.tokens) {
		f.subject = "$" + strings.Trim(w.tokens[w.pos].text, "${}")
	}
	w.skipTo("in")
	w.push(f)
}

// skipTo goes behind the next of the words.
func (w *walker) skipTo(words ...string) {
	for w.pos < len(w.tokens) {
		text := w.tokens[w.pos].text
		w.pos++
		if slices.Contains(words, text) {
			return
		}
	}
}

// function notes "name()" and "function name"; its body is read as a group.
func (w *walker) function(text string) bool {
	if text == "function" && w.pos+1 < len(w.tokens) {
		w.functions[w.tokens[w.pos+1].text] = true
		w.pos += 2
		return true
	}
	if w.pos+2 < len(w.tokens) && w.tokens[w.pos+1].op && w.tokens[w.pos+1].text == "(" && w.tokens[w.pos+2].op && w.tokens[w.pos+2].text == ")" {
		w.functions[text] = true
		w.pos += 3
		return true
	}
	return false
}
