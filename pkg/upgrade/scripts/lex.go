package scripts

import "strings"

// token is one word or operator of a shell script.
type token struct {
	text string   // of a word: without its quotes, "$" and what follows it kept
	op   bool     // an operator: ; ;; & && | || ( ) newline, or a redirection
	bare bool     // a word without quotes: it may be a keyword
	subs []string // the texts of its command substitutions
	line int
}

// maxTokens bounds what one script may cost.
const maxTokens = 200_000

// lexer splits a script roughly as a POSIX shell does (https://pubs.opengroup.org/onlinepubs/9699919799/utilities/V3_chap02.html).
// It never fails: what it cannot understand becomes words.
type lexer struct {
	src  string
	pos  int
	line int
	out  []token
	docs []heredoc // whose bodies begin at the next newline
}

type heredoc struct {
	end  string
	tabs bool // <<-: leading tabs do not count
}

func lex(src string) []token {
	l := &lexer{src: strings.ReplaceAll(src, "\\\n", "  "), line: 1}
	// Continued lines are joined above, so lines are counted in the text as it was.
	starts := lineStarts(src)
	for l.pos < len(l.src) && len(l.out) < maxTokens {
		l.step()
	}
	for i := range l.out {
		l.out[i].line = lineOf(starts, l.out[i].line)
	}
	return l.out
}

// lineStarts are the offsets of the lines; joining keeps offsets, because "\" and newline become two blanks.
func lineStarts(src string) []int {
	out := []int{0}
	for i, c := range []byte(src) {
		if c == '\n' {
			out = append(out, i+1)
		}
	}
	return out
}

func lineOf(starts []int, offset int) int {
	low, high := 0, len(starts)
	for low+1 < high {
		if mid := (low + high) / 2; starts[mid] <= offset {
			low = mid
		} else {
			high = mid
		}
	}
	return low + 1
}

func (l *lexer) step() {
	switch c := l.src[l.pos]; {
	case c == ' ' || c == '\t' || c == '\r':
		l.pos++
	case c == '#':
		l.pos = l.until(l.pos, '\n')
	case c == '\n':
		l.operator("\n")
		l.skipDocs()
	case strings.HasPrefix(l.src[l.pos:], "<<") && !strings.HasPrefix(l.src[l.pos:], "<<<"):
		l.document()
	case strings.IndexByte(";&|()<>", c) >= 0:
		for _, op := range []string{";;", "&&", "||", "&>", ">>", ">&", "<&", ">|", "<<<", "<>"} {
			if strings.HasPrefix(l.src[l.pos:], op) {
				l.operator(op)
				return
			}
		}
		l.operator(string(c))
	default:
		l.word()
	}
}

func (l *lexer) operator(op string) {
	l.out = append(l.out, token{text: op, op: true, line: l.pos})
	l.pos += len(op)
}

// until gives the offset of the next c, or the end.
func (l *lexer) until(from int, c byte) int {
	if i := strings.IndexByte(l.src[from:], c); i >= 0 {
		return from + i
	}
	return len(l.src)
}

// document notes a here-document; its body is data and is left out.
func (l *lexer) document() {
	d := heredoc{}
	l.pos += 2
	if l.pos < len(l.src) && l.src[l.pos] == '-' {
		d.tabs = true
		l.pos++
	}
	for l.pos < len(l.src) && (l.src[l.pos] == ' ' || l.src[l.pos] == '\t') {
		l.pos++
	}
	n := len(l.out)
	if l.pos < len(l.src) && strings.IndexByte("\n;&|()<>", l.src[l.pos]) < 0 {
		l.word()
	}
	if len(l.out) > n {
		d.end = l.out[n].text
		l.out = l.out[:n]
		l.docs = append(l.docs, d)
	}
}

func (l *lexer) skipDocs() {
	for _, d := range l.docs {
		for l.pos < len(l.src) {
			end := l.until(l.pos, '\n')
			text := strings.TrimRight(l.src[l.pos:end], "\r")
			l.pos = min(end+1, len(l.src))
			if d.tabs {
				text = strings.TrimLeft(text, "\t")
			}
			if text == d.end {
				break
			}
		}
	}
	l.docs = nil
}

// word reads up to a blank or an operator.
func (l *lexer) word() {
	t := token{line: l.pos, bare: true}
	var b strings.Builder
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		if strings.IndexByte(" \t\r\n;&|()<>", c) >= 0 {
			break
		}
		l.pos++
		switch c {
		case '\\':
			t.bare = false
			if l.pos < len(l.src) {
				b.WriteByte(l.src[l.pos])
				l.pos++
			}
		case '\'':
			t.bare = false
			end := l.until(l.pos, '\'')
			b.WriteString(l.src[l.pos:end])
			l.pos = min(end+1, len(l.src))
		case '"':
			t.bare = false
			l.quoted(&b, &t)
		case '`':
			l.backticks(&t)
		case '$':
			l.dollar(&b, &t)
		default:
			b.WriteByte(c)
		}
	}
	t.text = b.String()
	l.out = append(l.out, t)
}

// quoted reads a text in double quotes, whose opening one is behind.
func (l *lexer) quoted(b *strings.Builder, t *token) {
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		l.pos++
		switch c {
		case '"':
			return
		case '\\':
			if l.pos < len(l.src) {
				b.WriteByte(l.src[l.pos])
				l.pos++
			}
		case '`':
			l.backticks(t)
		case '$':
			l.dollar(b, t)
		default:
			b.WriteByte(c)
		}
	}
}

func (l *lexer) backticks(t *token) {
	end := l.until(l.pos, '`')
	t.subs = append(t.subs, l.src[l.pos:end])
	l.pos = min(end+1, len(l.src))
}

// dollar reads a parameter or a command substitution; a parameter stays as it is written.
func (l *lexer) dollar(b *strings.Builder, t *token) {
	b.WriteByte('$')
	if l.pos >= len(l.src) {
		return
	}
	switch open := l.src[l.pos]; open {
	case '(':
		body := l.nested('(', ')')
		if !strings.HasPrefix(body, "(") { // $(( )) is arithmetic
			t.subs = append(t.subs, body)
		}
	case '{':
		b.WriteString("{" + l.nested('{', '}') + "}")
	}
}

// nested reads from an opening bracket to its closing one and gives what is between. Brackets in quotes do not count.
func (l *lexer) nested(open, end byte) string {
	start, depth := l.pos+1, 0
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		l.pos++
		switch c {
		case open:
			depth++
		case end:
			if depth--; depth == 0 {
				return l.src[start : l.pos-1]
			}
		case '\\':
			l.pos = min(l.pos+1, len(l.src))
		case '\'':
			if open == '(' {
				l.pos = min(l.until(l.pos, '\'')+1, len(l.src))
			}
		}
	}
	return l.src[min(start, len(l.src)):]
}
