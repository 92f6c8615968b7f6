package glance

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

const defaultLimit, maxLimit = 25, 1000

var sortKeys = strings.Fields("name status container_format disk_format size id created_at updated_at")

// list is GET /v2/images.
func (s *Service) list(c call) (answer, error) {
	query := c.URL.Query()
	limit, err := readLimit(query)
	if err != nil {
		return answer{}, err
	}
	keys, dirs, err := readSort(query)
	if err != nil {
		return answer{}, err
	}
	if err := checkFilters(query); err != nil {
		return answer{}, err
	}
	found := []*image{}
	for _, id := range s.order {
		if i := s.images[id]; i.listedFor(c.caller, query) && i.matches(query) {
			found = append(found, i)
		}
	}
	// Newest first where two are equal, as Glance breaks ties by created_at and id.
	slices.Reverse(found)
	slices.SortStableFunc(found, func(a, b *image) int {
		for n, key := range keys {
			order := compare(a, b, key)
			if dirs[n] == "desc" {
				order = -order
			}
			if order != 0 {
				return order
			}
		}
		return 0
	})
	if marker := query.Get("marker"); query.Has("marker") {
		at := slices.IndexFunc(found, func(i *image) bool { return i.id == marker })
		if at < 0 {
			return answer{}, fail(http.StatusBadRequest, "Invalid marker: image %s could not be found.", marker)
		}
		found = found[at+1:]
	}
	return answer{status: http.StatusOK, body: page(query, found, limit)}, nil
}

func page(query url.Values, found []*image, limit int) map[string]any {
	body := map[string]any{"schema": "/v2/schemas/images", "first": "/v2/images"}
	query.Del("marker")
	if len(query) > 0 {
		body["first"] = "/v2/images?" + query.Encode()
	}
	if len(found) >= limit {
		found = found[:limit]
		if limit > 0 {
			query.Set("marker", found[limit-1].id)
			body["next"] = "/v2/images?" + query.Encode()
		}
	}
	body["images"] = found
	return body
}

func readLimit(query url.Values) (int, error) {
	if !query.Has("limit") {
		return defaultLimit, nil
	}
	limit, err := strconv.Atoi(query.Get("limit"))
	if err != nil {
		return 0, fail(http.StatusBadRequest, "limit param must be an integer")
	}
	if limit < 0 {
		return 0, fail(http.StatusBadRequest, "limit param must be positive")
	}
	return min(limit, maxLimit), nil
}

func readSort(query url.Values) (keys, dirs []string, err error) {
	keys, dirs = query["sort_key"], query["sort_dir"]
	if query.Has("sort") {
		if len(keys)+len(dirs) > 0 {
			return nil, nil, fail(http.StatusBadRequest, "Old and new sorting syntax cannot be combined")
		}
		for part := range strings.SplitSeq(query.Get("sort"), ",") {
			key, dir, _ := strings.Cut(part, ":")
			keys, dirs = append(keys, strings.TrimSpace(key)), append(dirs, strings.TrimSpace(cmp.Or(dir, "desc")))
		}
	}
	if len(keys) == 0 {
		keys = []string{"created_at"}
	}
	if len(dirs) > 1 && len(dirs) != len(keys) {
		return nil, nil, fail(http.StatusBadRequest, "Number of sort dirs does not match the number of sort keys")
	}
	for len(dirs) < len(keys) {
		dirs = append(dirs, cmp.Or(strings.Join(dirs[:min(1, len(dirs))], ""), "desc"))
	}
	for n, key := range keys {
		if !slices.Contains(sortKeys, key) {
			return nil, nil, fail(http.StatusBadRequest, "Invalid sort key: %s. It must be one of the following: %s.", key, strings.Join(sortKeys, ", "))
		}
		if dirs[n] != "asc" && dirs[n] != "desc" {
			return nil, nil, fail(http.StatusBadRequest, "Invalid sort direction: %s", dirs[n])
		}
	}
	return keys, dirs, nil
}

func compare(a, b *image, key string) int {
	switch key {
	case "size":
		var x, y int64
		if a.size != nil {
			x = *a.size
		}
		if b.size != nil {
			y = *b.size
		}
		return cmp.Compare(x, y)
	case "created_at":
		return a.created.Truncate(time.Second).Compare(b.created.Truncate(time.Second))
	case "updated_at":
		return a.updated.Truncate(time.Second).Compare(b.updated.Truncate(time.Second))
	}
	return strings.Compare(a.attribute(key), b.attribute(key))
}

func checkFilters(query url.Values) error {
	for _, key := range []string{"os_hidden", "protected"} {
		if v := strings.ToLower(query.Get(key)); query.Has(key) && v != "true" && v != "false" {
			return fail(http.StatusBadRequest, "Invalid value '%s' for '%s' filter. Valid values are 'true' or 'false'.", query.Get(key), key)
		}
	}
	if v := query.Get("visibility"); v != "" && v != "all" && !slices.Contains(visibilities, v) {
		return fail(http.StatusBadRequest, "Invalid visibility value: %s", v)
	}
	if v := query.Get("member_status"); v != "" && !slices.Contains([]string{"pending", "accepted", "rejected", "all"}, v) {
		return fail(http.StatusBadRequest, "Invalid status: %s", v)
	}
	return nil
}

// listedFor: what may be seen is not always listed: community images only where asked for, shared ones only once
// the member accepted them.
func (i *image) listedFor(c wire.Caller, query url.Values) bool {
	if !i.seenBy(c) {
		return false
	}
	want := query.Get("visibility")
	if c.Admin() || i.owner == c.ProjectID || want == "all" || i.visibility == "public" {
		return true
	}
	if i.visibility == "community" {
		return want == "community"
	}
	status := cmp.Or(query.Get("member_status"), "accepted")
	return slices.ContainsFunc(i.members, func(m *member) bool {
		return m.id == c.ProjectID && (status == "all" || m.status == status)
	})
}

func (i *image) matches(query url.Values) bool {
	if strings.EqualFold(query.Get("os_hidden"), "true") != i.hidden {
		return false
	}
	for key, values := range query {
		for _, want := range values {
			if !i.matchesOne(key, want) {
				return false
			}
		}
	}
	return true
}

func (i *image) matchesOne(key, want string) bool {
	switch key {
	case "limit", "marker", "sort", "sort_key", "sort_dir", "os_hidden", "member_status":
		return true
	case "visibility":
		return want == "all" || i.visibility == want
	case "tag":
		return slices.Contains(i.tags, want)
	case "size_min", "size_max":
		limit, err := strconv.ParseInt(want, 10, 64)
		return err == nil && i.size != nil && (key == "size_min" && *i.size >= limit || key == "size_max" && *i.size <= limit)
	case "created_at":
		return matchesTime(i.created, want)
	case "updated_at":
		return matchesTime(i.updated, want)
	}
	if list, isAny := strings.CutPrefix(want, "in:"); isAny {
		return slices.Contains(strings.Split(list, ","), i.attribute(key))
	}
	return i.attribute(key) == want
}

func matchesTime(have time.Time, want string) bool {
	op, value, found := strings.Cut(want, ":")
	if !found || !slices.Contains([]string{"gt", "gte", "lt", "lte", "eq", "neq"}, op) {
		op, value = "eq", want
	}
	limit, err := time.Parse("2006-01-02T15:04:05", strings.TrimSuffix(value, "Z"))
	if err != nil {
		return false
	}
	order := have.Truncate(time.Second).Compare(limit)
	return op == "gt" && order > 0 || op == "gte" && order >= 0 || op == "lt" && order < 0 || op == "lte" && order <= 0 ||
		op == "eq" && order == 0 || op == "neq" && order != 0
}

// attribute is one attribute as text, for filters and sorting; else a property of that name.
func (i *image) attribute(key string) string {
	switch key {
	case "id":
		return i.id
	case "name":
		return text(i.name)
	case "status":
		return i.status
	case "owner":
		return i.owner
	case "disk_format":
		return text(i.diskFormat)
	case "container_format":
		return text(i.containerFormat)
	case "checksum":
		return text(i.checksum)
	case "os_hash_value":
		return text(i.hash)
	case "protected":
		return strconv.FormatBool(i.protected)
	case "min_disk":
		return strconv.FormatInt(i.minDisk, 10)
	case "min_ram":
		return strconv.FormatInt(i.minRAM, 10)
	}
	return i.properties[key]
}
