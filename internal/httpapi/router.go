package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gorilla/mux"

	"weft/matrix/merr"
)

// The segments that group rows. Every path of the specification is literal in
// its first four segments ("/_matrix/client/v3/rooms"); what follows the first
// variable ("…/{roomId}/send") is the next literal that tells many rows apart.
const (
	prefixSegments = 4
	tellingSegment = 5
)

// router finds the endpoint of a request: two map look-ups lead to a mux
// router of a few rows.
type router struct {
	groups map[string]*group
}

// group holds the rows that share a literal prefix.
type group struct {
	telling map[string]*mux.Router // by the literal at tellingSegment
	rest    *mux.Router            // rows with a variable or nothing there
}

// endpoint is a row as it stands in a mux router.
type endpoint struct {
	Route
	label string // the path without patterns, for metrics and logs
}

// ServeHTTP satisfies mux, which wants a handler; requests never come this way.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "not dispatched", http.StatusInternalServerError)
}

// newRouter groups the rows. Two rows of the same method and shape are a
// mistake in the program, so it panics.
func newRouter(routes []Route) *router {
	eps := make([]*endpoint, 0, len(routes))
	seen := make(map[string]bool, len(routes))
	for _, row := range routes {
		for _, path := range withLegacy(row.Path) {
			e := &endpoint{Route: row, label: strings.Join(shape(path, false), "/")}
			e.Path = path
			key := row.Method + " " + strings.Join(shape(path, true), "/")
			if seen[key] {
				panic(fmt.Sprintf("httpapi: two rows for %s %s", row.Method, path))
			}
			seen[key] = true
			eps = append(eps, e)
		}
	}
	// A literal is tried before a variable at the same place.
	slices.SortStableFunc(eps, func(a, b *endpoint) int {
		return strings.Count(a.Path, "{") - strings.Count(b.Path, "{")
	})
	byPrefix := make(map[string][]*endpoint)
	for _, e := range eps {
		p, _ := keys(e.Path)
		byPrefix[p] = append(byPrefix[p], e)
	}
	r := &router{groups: make(map[string]*group, len(byPrefix))}
	for p, members := range byPrefix {
		r.groups[p] = newGroup(members)
	}
	return r
}

func newGroup(members []*endpoint) *group {
	g := &group{telling: make(map[string]*mux.Router)}
	tells := make(map[string]bool)
	var rest []*endpoint
	for _, e := range members {
		if _, t := keys(e.Path); t != "" && !strings.Contains(t, "{") {
			tells[t] = true
		} else {
			rest = append(rest, e)
		}
	}
	for t := range tells {
		var rows []*endpoint
		for _, e := range members {
			if _, et := keys(e.Path); et == t {
				rows = append(rows, e)
			}
		}
		g.telling[t] = newMux(append(rows, rest...))
	}
	g.rest = newMux(rest)
	return g
}

func newMux(rows []*endpoint) *mux.Router {
	m := mux.NewRouter().SkipClean(true)
	for _, e := range rows {
		methods := []string{e.Method}
		if e.Method == http.MethodGet {
			methods = append(methods, http.MethodHead)
		}
		prefix, _ := keys(e.Path)
		// The method first: it is cheaper than the path's regular expression.
		if err := m.NewRoute().Methods(methods...).Path(tail(e.Path, prefix)).Handler(e).GetError(); err != nil {
			panic(fmt.Sprintf("httpapi: path %s: %v", e.Path, err))
		}
	}
	return m
}

// withLegacy gives the paths a row is served under.
//
// spec: client-server §2 (API versioning): r0 was the name of v3 before v1.1.
func withLegacy(path string) []string {
	for _, api := range []string{"/_matrix/client/", "/_matrix/media/"} {
		if rest, ok := strings.CutPrefix(path, api+"v3/"); ok {
			return []string{path, api + "r0/" + rest}
		}
	}
	return []string{path}
}

// keys gives the grouping keys of a path or of a row's path: its first four
// segments, and the sixth.
func keys(path string) (prefix, telling string) {
	n, start := 0, 0
	prefix = path
	for i := 1; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		n++
		if n == prefixSegments {
			prefix = path[:i]
		}
		if n == tellingSegment {
			start = i + 1
		}
		if n == tellingSegment+1 {
			return prefix, path[start:i]
		}
	}
	return prefix, ""
}

// tail is what a mux router sees of a path: the last segment of the prefix,
// which all its rows share, and what follows.
func tail(path, prefix string) string {
	return path[max(0, strings.LastIndexByte(prefix, '/')):]
}

// shape splits a row's path into segments in which variables have lost their
// patterns, or, anonymous, their names too.
func shape(path string, anonymous bool) []string {
	segs := strings.Split(path, "/")
	for i, s := range segs {
		if !strings.HasPrefix(s, "{") {
			continue
		}
		name, pattern, _ := strings.Cut(strings.Trim(s, "{}"), ":")
		switch {
		case !anonymous:
			segs[i] = "{" + name + "}"
		case pattern != "":
			segs[i] = "{:" + pattern + "}"
		default:
			segs[i] = "{}"
		}
	}
	return segs
}

// match finds the endpoint and the unescaped path variables. A path that is
// unknown is tried once more with its trailing slash added or taken away,
// because clients differ in that.
func (r *router) match(req *http.Request) (*endpoint, map[string]string, error) {
	path := req.URL.EscapedPath()
	e, vars, err := r.matchPath(req.Method, path)
	if err == nil || merr.From(err).Status != http.StatusNotFound {
		return e, vars, err
	}
	other, had := strings.CutSuffix(path, "/")
	if !had {
		other = path + "/"
	}
	if e, vars, err := r.matchPath(req.Method, other); err == nil {
		return e, vars, nil
	}
	return nil, nil, err
}

// matchPath gives mux a request that has nothing but what it matches on, with
// the escaped path in the place of the plain one, so that an escaped slash
// stays within its segment.
func (r *router) matchPath(method, path string) (*endpoint, map[string]string, error) {
	prefix, telling := keys(path)
	g := r.groups[prefix]
	if g == nil {
		return nil, nil, merr.Unrecognized("no endpoint at this path")
	}
	m := g.telling[telling]
	if m == nil {
		m = g.rest
	}
	var found mux.RouteMatch
	if !m.Match(&http.Request{Method: method, URL: &url.URL{Path: tail(path, prefix)}}, &found) {
		if errors.Is(found.MatchErr, mux.ErrMethodMismatch) {
			return nil, nil, merr.MethodNotAllowed("this endpoint does not take %s", method)
		}
		return nil, nil, merr.Unrecognized("no endpoint at this path")
	}
	e, ok := found.Handler.(*endpoint)
	if !ok {
		return nil, nil, merr.MethodNotAllowed("this endpoint does not take %s", method)
	}
	for name, v := range found.Vars {
		if strings.IndexByte(v, '%') < 0 {
			continue
		}
		plain, err := url.PathUnescape(v)
		if err != nil {
			return nil, nil, merr.InvalidParam("path variable %s is not correctly escaped", name)
		}
		found.Vars[name] = plain
	}
	return e, found.Vars, nil
}
