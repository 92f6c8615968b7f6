package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/ini.v1"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Loaded is a configuration with what was odd about its files.
type Loaded struct {
	Config
	Warnings []string // options that nobody knows
}

// loadOptions make go-ini read what oslo.config reads: # inside values, quotes kept, lists by repetition.
var loadOptions = ini.LoadOptions{
	IgnoreInlineComment: true, IgnoreContinuation: true, PreserveSurroundedQuote: true, AllowShadows: true,
	AllowDuplicateShadowValues: true, AllowPythonMultilineValues: true, AllowBooleanKeys: true,
}

// Load reads the files in order, later ones over earlier ones; no file means defaults only. skip names
// required options ("keystone_authtoken.password") that this program does not need. All faults are
// reported at once, each with file, line and option.
func Load(files []string, skip ...string) (*Loaded, error) {
	out := &Loaded{}
	var faults []error
	values := map[string]value{}
	for _, file := range files {
		if err := readFile(file, values); err != nil {
			faults = append(faults, err)
		}
	}
	known := map[string]bool{}
	each(&out.Config, func(group string, f reflect.StructField, field reflect.Value) {
		key := group + "." + f.Tag.Get("opt")
		known[key] = true
		v, given := values[key]
		if !given || v.text == "" {
			v.text = f.Tag.Get("default")
		}
		if v.text == "" && f.Tag.Get("required") == "true" && !slices.Contains(skip, key) {
			faults = append(faults, fault(v, group, f, "the option is required and not set"))
			return
		}
		if err := set(field, f, v.text); err != nil {
			faults = append(faults, fault(v, group, f, err.Error()))
		}
	})
	for key, v := range values {
		if group, _, _ := strings.Cut(key, "."); !known[key] && groups()[group] {
			out.Warnings = append(out.Warnings, fmt.Sprintf("%s: option %s is not known to Kiln and has no effect", errs.Where{File: v.file, Line: v.line}, key))
		}
	}
	slices.Sort(out.Warnings)
	out.derive()
	return out, errors.Join(faults...)
}

type value struct {
	text string
	file string
	line int
}

func readFile(file string, values map[string]value) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return errs.Wrap(err, errs.Invalid, "kiln.config.file", "the configuration file cannot be read").At(errs.Where{File: file})
	}
	parsed, err := ini.LoadSources(loadOptions, data)
	if err != nil {
		return errs.Wrap(err, errs.Invalid, "kiln.config.syntax", "not an INI file").At(errs.Where{File: file})
	}
	lines := lineNumbers(data)
	for _, s := range parsed.Sections() {
		for _, k := range s.Keys() {
			key := s.Name() + "." + k.Name()
			values[key] = value{strings.Join(k.ValueWithShadows(), ","), file, lines[key]}
		}
	}
	return nil
}

var (
	sectionLine = regexp.MustCompile(`^\[([^\]]+)\]`)
	keyLine     = regexp.MustCompile(`^([A-Za-z0-9_]+)\s*[=:]`)
)

// lineNumbers finds where each option stands, because go-ini does not tell.
func lineNumbers(data []byte) map[string]int {
	out, section := map[string]int{}, "DEFAULT"
	for i, line := range bytes.Split(data, []byte("\n")) {
		if m := sectionLine.FindSubmatch(line); m != nil {
			section = string(m[1])
		} else if m := keyLine.FindSubmatch(line); m != nil {
			out[section+"."+string(m[1])] = i + 1
		}
	}
	return out
}

func each(c *Config, visit func(group string, f reflect.StructField, field reflect.Value)) {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		group := v.Type().Field(i).Tag.Get("group")
		for j := range v.Field(i).NumField() {
			visit(group, v.Field(i).Type().Field(j), v.Field(i).Field(j))
		}
	}
}

func groups() map[string]bool {
	out := map[string]bool{}
	t := reflect.TypeFor[Config]()
	for field := range t.Fields() {
		// [DEFAULT] and the oslo sections are shared with libraries that DevStack also configures.
		if name := field.Tag.Get("group"); !strings.HasPrefix(name, "oslo") && name != "keystone_authtoken" && name != "database" {
			out[name] = true
		}
	}
	return out
}

func fault(v value, group string, f reflect.StructField, text string) error {
	if f.Tag.Get("secret") == "true" && v.text != "" {
		text = strings.ReplaceAll(text, v.text, "***")
	}
	return errs.New(errs.Invalid, "kiln.config.option", "%s", text).
		At(errs.Where{File: v.file, Line: v.line, Field: "[" + group + "] " + f.Tag.Get("opt")})
}

func set(field reflect.Value, f reflect.StructField, text string) error {
	switch field.Interface().(type) {
	case time.Duration:
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil || seconds <= 0 || seconds > 1e9 {
			return fmt.Errorf("%q is not a number of seconds above 0", text)
		}
		field.SetInt(int64(seconds * float64(time.Second)))
	case []string:
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				field.Set(reflect.Append(field, reflect.ValueOf(part)))
			}
		}
	case bool:
		b, known := map[string]bool{"true": true, "1": true, "yes": true, "on": true, "false": false, "0": false, "no": false, "off": false}[strings.ToLower(text)]
		if !known {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		field.SetBool(b)
	case int:
		return setInt(field, f, text)
	default:
		return setText(field, f, text)
	}
	return nil
}

func setInt(field reflect.Value, f reflect.StructField, text string) error {
	n, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("%q is not a whole number", text)
	}
	low, lerr := strconv.Atoi(f.Tag.Get("min"))
	high, herr := strconv.Atoi(f.Tag.Get("max"))
	if lerr == nil && n < low || herr == nil && n > high {
		return fmt.Errorf("%d is not between %s and %s", n, f.Tag.Get("min"), f.Tag.Get("max"))
	}
	field.SetInt(int64(n))
	return nil
}

func setText(field reflect.Value, f reflect.StructField, text string) error {
	if choices := f.Tag.Get("choices"); choices != "" && !slices.Contains(strings.Split(choices, ","), text) {
		return fmt.Errorf("%q is none of %s", text, choices)
	}
	if f.Tag.Get("rule") == "url" && text != "" {
		// url.Parse's own error would repeat the text, and with it a password.
		if u, err := url.Parse(text); err != nil || u.Scheme == "" {
			return errors.New("not an address like scheme://host/path")
		}
	}
	// A transport may name several brokers, which no URL can; the bus reads it.
	if f.Tag.Get("rule") == "transport" && text != "" && !strings.Contains(text, "://") {
		return errors.New("not an address like rabbit://user:password@host:5672/vhost")
	}
	field.SetString(text)
	return nil
}

// derive fills options whose default depends on another.
func (l *Loaded) derive() {
	if l.Default.Host == "" {
		if name, err := os.Hostname(); err == nil {
			l.Default.Host = name
		}
	}
	or := func(target *string, fallback string) {
		if *target == "" {
			*target = fallback
		}
	}
	or(&l.Worker.WorkDir, l.Default.StatePath+"/work")
	or(&l.Worker.CacheDir, l.Default.StatePath+"/cache")
	or(&l.Worker.ArchiveDir, l.Worker.CacheDir+"/archive")
	or(&l.Agent.StoreDir, l.Default.StatePath+"/store")
	or(&l.Agent.Node, l.Default.Host)
	or(&l.Keystone.PublicURI, l.Keystone.AuthURL)
	or(&l.Notifications.TransportURL, l.Default.TransportURL)
}
