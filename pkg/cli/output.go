package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	gotable "github.com/jedib0t/go-pretty/v6/table"
)

// table writes one line a resource.
func table(out io.Writer, rows []row, columns []string) error {
	t := gotable.NewWriter()
	t.SetStyle(gotable.StyleLight)
	head := gotable.Row{}
	for _, c := range columns {
		head = append(head, c)
	}
	t.AppendHeader(head)
	for _, r := range rows {
		line := gotable.Row{}
		for _, c := range columns {
			line = append(line, cell(r[c], 48))
		}
		t.AppendRow(line)
	}
	_, err := fmt.Fprintln(out, t.Render())
	return err
}

// properties writes one resource, a line a field.
func properties(out io.Writer, r row) error {
	t := gotable.NewWriter()
	t.SetStyle(gotable.StyleLight)
	t.AppendHeader(gotable.Row{"field", "value"})
	for _, key := range slices.Sorted(maps.Keys(r)) {
		t.AppendRow(gotable.Row{key, cell(r[key], 120)})
	}
	_, err := fmt.Fprintln(out, t.Render())
	return err
}

// cell writes any JSON value shortly; JSON output has it whole.
func cell(v any, width int) string {
	s := plain(v)
	if r := []rune(s); len(r) > width {
		return string(r[:width-1]) + "…"
	}
	return s
}

func plain(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case float64:
		return number(v)
	case []any:
		if len(v) > 6 {
			return fmt.Sprintf("%d entries", len(v))
		}
		words := make([]string, len(v))
		for i, e := range v {
			words[i] = plain(e)
		}
		return strings.Join(words, ", ")
	case row:
		words := make([]string, 0, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			words = append(words, key+"="+plain(v[key]))
		}
		return strings.Join(words, " ")
	default:
		return fmt.Sprint(v)
	}
}
