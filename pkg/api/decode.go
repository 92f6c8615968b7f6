package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// MaxBody is the largest body of a request, in bytes.
const MaxBody = 1 << 20

var unknownField = regexp.MustCompile(`^json: unknown field "(.*)"$`)

// readBody decodes strictly: one JSON object, no field that the call does not know, MaxBody at most.
func readBody(w http.ResponseWriter, r *http.Request, into any) error {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return errs.New(errs.TooLarge, "kiln.request.too_large", "a body has %d bytes at most", MaxBody)
	case err != nil:
		return errs.Wrap(err, errs.Invalid, "kiln.request.body", "the body did not arrive whole")
	}
	_, none := into.(interface{ mayBeEmpty() })
	if none && len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	if kind := r.Header.Get("Content-Type"); kind != "" {
		if media, _, err := mime.ParseMediaType(kind); err != nil || media != "application/json" {
			return errs.New(errs.Invalid, "kiln.request.content_type", "send the body as application/json, not as %s", kind)
		}
	}
	if first := bytes.TrimSpace(data); len(first) == 0 || first[0] != '{' {
		return errs.New(errs.Invalid, "kiln.request.body", "the body must be a JSON object")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return bodyFault(data, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errs.New(errs.Invalid, "kiln.request.body", "something stands behind the JSON object").At(errs.Where{Line: lineAt(data, d.InputOffset())})
	}
	return nil
}

func bodyFault(data []byte, err error) error {
	var (
		syntax *json.SyntaxError
		kind   *json.UnmarshalTypeError
		ours   *errs.Error
	)
	if m := unknownField.FindStringSubmatch(err.Error()); m != nil {
		return errs.New(errs.Invalid, "kiln.request.unknown_field", "there is no field %q here", m[1]).At(errs.Where{Field: m[1]})
	}
	switch {
	case errors.As(err, &ours):
		return ours
	case errors.As(err, &kind):
		return errs.New(errs.Invalid, "kiln.request.type", "this must be %s, not %s", words(kind.Type), kind.Value).
			At(errs.Where{Line: lineAt(data, kind.Offset), Field: kind.Field})
	case errors.As(err, &syntax):
		return errs.New(errs.Invalid, "kiln.request.body", "the body is not JSON: %v", syntax).At(errs.Where{Line: lineAt(data, syntax.Offset)})
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errs.New(errs.Invalid, "kiln.request.body", "the body is not JSON: it ends too early").At(errs.Where{Line: lineAt(data, int64(len(data)))})
	}
	return errs.Wrap(err, errs.Invalid, "kiln.request.body", "the body cannot be read")
}

// words is a type as a user of JSON calls it.
func words(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	}
	return "a whole number"
}

func lineAt(data []byte, offset int64) int {
	return 1 + bytes.Count(data[:min(int(offset), len(data))], []byte("\n"))
}

var listKeys = []string{"limit", "marker", "sort"}

// readQuery refuses keys that the call does not know, and keys that are there twice.
func readQuery(u *url.URL, r route) (url.Values, error) {
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errs.New(errs.Invalid, "kiln.request.query", "the query is not well-formed")
	}
	for key, values := range q {
		known := slices.Contains(r.query, key) ||
			r.sorts != nil && (slices.Contains(listKeys, key) || key == "all_projects" && !r.cloud)
		if !known {
			return nil, errs.New(errs.Invalid, "kiln.request.unknown_query", "there is no query key %q here", key).At(errs.Where{Field: key})
		}
		if len(values) > 1 {
			return nil, errs.New(errs.Invalid, "kiln.request.query", "the query key %q is there twice", key).At(errs.Where{Field: key})
		}
	}
	return q, nil
}

// readList makes the list question of the query; see https://specs.openstack.org/openstack/api-wg/guidelines/pagination_filter_sort.html.
func readList(q url.Values, r route) (listing.Query, error) {
	l := listing.Query{Limit: listing.DefaultLimit, Marker: q.Get("marker"), Filter: map[string]string{}}
	if q.Has("limit") {
		n, err := wholeNumber(q, "limit", 1)
		if err != nil {
			return l, err
		}
		l.Limit = int(min(n, listing.MaxLimit))
	}
	for _, key := range r.query {
		if q.Has(key) {
			l.Filter[key] = q.Get(key)
		}
	}
	if !q.Has("sort") {
		return l, nil
	}
	for item := range strings.SplitSeq(q.Get("sort"), ",") {
		field, way, _ := strings.Cut(item, ":")
		if !slices.Contains(r.sorts, field) || way != "" && way != "asc" && way != "desc" {
			return l, errs.New(errs.Invalid, "kiln.request.sort", "%q is no sort key here: use %s, each with :asc or :desc", item, strings.Join(r.sorts, ", ")).
				At(errs.Where{Field: "sort"})
		}
		l.Sort = append(l.Sort, listing.Key{Field: field, Desc: way == "desc"})
	}
	return l, nil
}

func wholeNumber(q url.Values, key string, least int64) (int64, error) {
	n, err := strconv.ParseInt(q.Get(key), 10, 64)
	if err != nil || n < least {
		return 0, errs.New(errs.Invalid, "kiln.request.query", "%s must be a whole number of at least %d", key, least).At(errs.Where{Field: key})
	}
	return n, nil
}

// filled makes nil lists and maps of an answer empty ones: clients read [] and {}, never null.
func filled(body any) any {
	v := reflect.New(reflect.TypeOf(body)).Elem()
	v.Set(reflect.ValueOf(body))
	fill(v)
	return v.Interface()
}

func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			fill(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 { // raw JSON
			return
		}
		if v.IsNil() {
			v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		}
		for i := range v.Len() {
			fill(v.Index(i))
		}
	case reflect.Map:
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		for _, key := range v.MapKeys() {
			if item := v.MapIndex(key); item.Kind() == reflect.Interface && !item.IsNil() {
				v.SetMapIndex(key, reflect.ValueOf(filled(item.Interface())))
			}
		}
	}
}
