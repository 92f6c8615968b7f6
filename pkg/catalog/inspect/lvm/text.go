package lvm

import (
	"strconv"
	"strings"
)

const (
	maxNesting = 8
	maxValues  = 1 << 20 // of the whole text
)

// section is one block of the text: names with values (string, int64, []any) and further sections.
type section map[string]any

func (s section) text(name string) string {
	v, _ := s[name].(string)
	return v
}

func (s section) number(name string) int64 {
	v, _ := s[name].(int64)
	return v
}

func (s section) list(name string) []any {
	v, _ := s[name].([]any)
	return v
}

func (s section) section(name string) section {
	v, _ := s[name].(section)
	return v
}

// parser reads LVM's configuration language: name = value, name { … }, # comments.
type parser struct {
	rest string
	left int
}

func parse(text string) (section, error) {
	p := &parser{rest: strings.TrimRight(text, "\x00"), left: maxValues}
	return p.section(0)
}

// token gives the next word, sign or quoted string; "" at the end. Strings keep their first quote, to tell them apart.
func (p *parser) token() (string, error) {
	for {
		p.rest = strings.TrimLeft(p.rest, " \t\r\n")
		if !strings.HasPrefix(p.rest, "#") {
			break
		}
		_, p.rest, _ = strings.Cut(p.rest, "\n")
	}
	if p.rest == "" {
		return "", nil
	}
	switch c := p.rest[0]; {
	case strings.IndexByte("{}[],=", c) >= 0:
		p.rest = p.rest[1:]
		return string(c), nil
	case c == '"':
		return p.quoted()
	}
	end := strings.IndexAny(p.rest, " \t\r\n{}[],=#\"")
	if end < 0 {
		end = len(p.rest)
	}
	word := p.rest[:end]
	p.rest = p.rest[end:]
	return word, nil
}

func (p *parser) quoted() (string, error) {
	var out strings.Builder
	out.WriteByte('"')
	for k := 1; k < len(p.rest); k++ {
		switch c := p.rest[k]; c {
		case '"':
			p.rest = p.rest[k+1:]
			return out.String(), nil
		case '\\':
			if k++; k < len(p.rest) {
				out.WriteByte(p.rest[k])
			}
		default:
			out.WriteByte(c)
		}
	}
	return "", corrupt("a string without end in the metadata")
}

// section reads up to the closing brace, or to the end of the text at depth 0.
func (p *parser) section(depth int) (section, error) {
	if depth > maxNesting {
		return nil, corrupt("sections of the metadata nest too deep")
	}
	out := section{}
	for {
		name, err := p.token()
		if err != nil {
			return nil, err
		}
		switch {
		case name == "" && depth == 0, name == "}" && depth > 0:
			return out, nil
		case name == "" || strings.ContainsAny(name, "{}[],=\""):
			return nil, corrupt("%.20q in the metadata where a name should be", name)
		}
		if p.left--; p.left < 0 {
			return nil, corrupt("metadata of more than %d values", maxValues)
		}
		sign, err := p.token()
		if err != nil {
			return nil, err
		}
		switch sign {
		case "{":
			out[name], err = p.section(depth + 1)
		case "=":
			out[name], err = p.value()
		default:
			err = corrupt("%.20q in the metadata after a name", sign)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (p *parser) value() (any, error) {
	word, err := p.token()
	if err != nil {
		return nil, err
	}
	if word != "[" {
		return scalar(word)
	}
	list := []any{}
	for {
		word, err := p.token()
		if err != nil {
			return nil, err
		}
		switch word {
		case "]":
			return list, nil
		case ",":
			continue
		}
		if p.left--; p.left < 0 {
			return nil, corrupt("metadata of more than %d values", maxValues)
		}
		v, err := scalar(word)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
}

func scalar(word string) (any, error) {
	if text, ok := strings.CutPrefix(word, `"`); ok {
		return text, nil
	}
	n, err := strconv.ParseInt(word, 10, 64)
	if err == nil {
		return n, nil
	}
	if _, err := strconv.ParseFloat(word, 64); err == nil {
		return word, nil
	}
	return nil, corrupt("%.20q in the metadata where a value should be", word)
}
