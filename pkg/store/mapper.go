package store

import (
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// timeText is how times are kept in both databases: UTC, microseconds, sorted as text like as time.
const timeText = "2006-01-02 15:04:05.000000"

func stamp(t time.Time) string { return t.UTC().Format(timeText) }

func parseTime(text string) (time.Time, error) {
	return time.ParseInLocation("2006-01-02 15:04:05.999999", text, time.UTC)
}

// column is one column and the field of the domain's struct that it holds. The names are the JSON names, so that
// filters, sort keys and columns are one vocabulary.
type column struct {
	name  string
	index []int
	typ   reflect.Type
}

var (
	timeType    = reflect.TypeFor[time.Time]()
	timePtrType = reflect.TypeFor[*time.Time]()
)

// columnsOf lists the columns of a struct: strings, numbers, booleans and times as they are, everything else as
// JSON, except that the structs named in flat become one column for each of their fields.
func columnsOf(t reflect.Type, prefix string, at []int, flat map[string]bool) []column {
	var out []column
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || name == "" {
			name = strings.ToLower(f.Name)
		}
		index := append(append([]int{}, at...), i)
		if flat[name] {
			out = append(out, columnsOf(f.Type, prefix+name+"_", index, nil)...)
			continue
		}
		out = append(out, column{name: prefix + name, index: index, typ: f.Type})
	}
	return out
}

func (c column) plain() bool {
	switch c.typ.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int64:
		return true
	}
	return false
}

// arg is the value of the column in row (a struct) for a statement.
func (c column) arg(row reflect.Value) (any, error) {
	v := row.FieldByIndex(c.index)
	switch {
	case c.typ.Kind() == reflect.String:
		return valid(v.String()), nil
	case c.typ.Kind() == reflect.Bool:
		return v.Bool(), nil
	case c.plain():
		return v.Int(), nil
	case c.typ == timeType:
		return stamp(v.Interface().(time.Time)), nil
	case c.typ == timePtrType:
		if v.IsNil() {
			return nil, nil
		}
		return stamp(*v.Interface().(*time.Time)), nil
	}
	switch c.typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		if v.IsNil() || (v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 && v.Len() == 0) {
			return nil, nil
		}
	}
	b, err := json.Marshal(v.Interface())
	if err != nil {
		return nil, fmt.Errorf("column %s: %w", c.name, err)
	}
	return string(b), nil
}

// dest is where Scan puts the column's value.
func (c column) dest(row reflect.Value) any {
	v := row.FieldByIndex(c.index)
	switch {
	case c.plain():
		return v.Addr().Interface()
	case c.typ == timeType, c.typ == timePtrType:
		return &timeDest{v}
	}
	return &jsonDest{v, c.name}
}

type timeDest struct{ v reflect.Value }

// Scan reads a time, see timeText.
func (d *timeDest) Scan(src any) error {
	if src == nil {
		d.v.SetZero()
		return nil
	}
	text, err := textOf(src)
	if err != nil {
		return err
	}
	t, err := parseTime(text)
	if err != nil {
		return err
	}
	if d.v.Type() == timePtrType {
		d.v.Set(reflect.ValueOf(&t))
	} else {
		d.v.Set(reflect.ValueOf(t))
	}
	return nil
}

type jsonDest struct {
	v    reflect.Value
	name string
}

// Scan reads JSON. Lists and maps are never nil, so that the API shows [] and {} for empty ones.
func (d *jsonDest) Scan(src any) error {
	if src != nil {
		text, err := textOf(src)
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(text), d.v.Addr().Interface()); err != nil {
			return fmt.Errorf("column %s: %w", d.name, err)
		}
	}
	switch d.v.Kind() {
	case reflect.Slice:
		if d.v.IsNil() && d.v.Type().Elem().Kind() != reflect.Uint8 {
			d.v.Set(reflect.MakeSlice(d.v.Type(), 0, 0))
		}
	case reflect.Map:
		if d.v.IsNil() {
			d.v.Set(reflect.MakeMap(d.v.Type()))
		}
	}
	return nil
}

func textOf(src any) (string, error) {
	switch s := src.(type) {
	case []byte:
		return string(s), nil
	case string:
		return s, nil
	}
	return "", fmt.Errorf("%w: %T is not text", errors.ErrUnsupported, src)
}

// valid replaces what is not UTF-8: texts of errors quote the output of commands, and MariaDB refuses them.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// jsonArg is v as the value of a JSON column.
func jsonArg(v any) (driver.Value, error) {
	if r := reflect.ValueOf(v); !r.IsValid() || (r.Kind() == reflect.Pointer && r.IsNil()) {
		return nil, nil
	}
	b, err := json.Marshal(v)
	return string(b), err
}

// timeInto is where Scan puts a time, see timeText.
func timeInto(t *time.Time) *timeDest { return &timeDest{reflect.ValueOf(t).Elem()} }
