package recipe

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/kiln-cloud/kiln/pkg/catalog"
)

// TemplateData is what a file's template sees.
type TemplateData struct {
	Values map[string]string
	Recipe string
	Family catalog.FamilyName
}

// Bounds of a template: recipes come from strangers, and a template language without bounds fills any memory.
const (
	maxTemplate = 256 << 10
	maxRendered = 4 << 20
)

// Render fills in a template. name is for errors. A value that is not there is an error, not an empty text.
func Render(name, text string, d TemplateData) (string, error) {
	t, err := parseTemplate(name, text)
	if err != nil {
		return "", err
	}
	budget := maxRendered
	var out strings.Builder
	if err := t.Funcs(functions(&budget)).Execute(limited{&out, &budget}, d); err != nil {
		return "", err
	}
	return out.String(), nil
}

// wideVerb is a width that makes much of little.
var wideVerb = regexp.MustCompile(`%[^A-Za-z%]*([0-9]{4}|\*)`)

var errTooMuch = fmt.Errorf("the template makes more than %d MiB", maxRendered>>20)

// limited stops an endless text.
type limited struct {
	out    *strings.Builder
	budget *int
}

// Write implements io.Writer.
func (l limited) Write(p []byte) (int, error) {
	if *l.budget -= len(p); *l.budget < 0 {
		return 0, errTooMuch
	}
	return l.out.Write(p)
}

// functions replace those of the standard library that make text of any size.
func functions(budget *int) template.FuncMap {
	paid := func(s string) (string, error) {
		if *budget -= len(s); *budget < 0 {
			return "", errTooMuch
		}
		return s, nil
	}
	return template.FuncMap{
		"print":   func(args ...any) (string, error) { return paid(fmt.Sprint(args...)) },
		"println": func(args ...any) (string, error) { return paid(fmt.Sprintln(args...)) },
		"printf": func(format string, args ...any) (string, error) {
			if wideVerb.MatchString(format) {
				return "", errTooMuch
			}
			return paid(fmt.Sprintf(format, args...))
		},
		"html":     func(args ...any) (string, error) { return paid(template.HTMLEscaper(args...)) },
		"js":       func(args ...any) (string, error) { return paid(template.JSEscaper(args...)) },
		"urlquery": func(args ...any) (string, error) { return paid(template.URLQueryEscaper(args...)) },
		"upper":    func(s string) (string, error) { return paid(strings.ToUpper(s)) },
		"lower":    func(s string) (string, error) { return paid(strings.ToLower(s)) },
		"split": func(sep, s string) ([]string, error) {
			_, err := paid(s)
			return strings.Split(s, sep), err
		},
	}
}

func parseTemplate(name, text string) (*template.Template, error) {
	if len(text) > maxTemplate {
		return nil, fmt.Errorf("a template has %d KiB at most", maxTemplate>>10)
	}
	budget := 0
	t, err := template.New(name).Option("missingkey=error").Funcs(functions(&budget)).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("not a template: %w", err)
	}
	if len(t.Templates()) > 1 {
		return nil, errNoDefine
	}
	if t.Tree != nil {
		err = checkNodes(t.Root, 0)
	}
	return t, err
}

var (
	errNoDefine = errors.New("not a template: define, block and template are not allowed")
	errRange    = errors.New("not a template: range goes over .Values or a split value, and not inside another range")
)

// checkNodes refuses what may run for ever: templates that call each other, and loops in loops.
func checkNodes(n parse.Node, loops int) error {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return nil
		}
		for _, child := range n.Nodes {
			if err := checkNodes(child, loops); err != nil {
				return err
			}
		}
	case *parse.IfNode:
		return checkBranch(n.BranchNode, loops)
	case *parse.WithNode:
		return checkBranch(n.BranchNode, loops)
	case *parse.RangeNode:
		if loops > 0 || !overText(n.Pipe) {
			return errRange
		}
		return checkBranch(n.BranchNode, loops+1)
	case *parse.TemplateNode:
		return errNoDefine
	}
	return nil
}

func checkBranch(b parse.BranchNode, loops int) error {
	if err := checkNodes(b.List, loops); err != nil {
		return err
	}
	return checkNodes(b.ElseList, loops)
}

// overText tells whether a range goes over .Values or what split gives; a number could be any.
func overText(p *parse.PipeNode) bool {
	if p == nil || len(p.Cmds) != 1 || len(p.Cmds[0].Args) == 0 {
		return false
	}
	switch arg := p.Cmds[0].Args[0].(type) {
	case *parse.FieldNode:
		return len(arg.Ident) == 1 && arg.Ident[0] == "Values"
	case *parse.IdentifierNode:
		return arg.Ident == "split"
	}
	return false
}
