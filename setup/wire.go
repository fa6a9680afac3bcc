package setup

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"weft/clientapi"
	clientapiapi "weft/clientapi/api"
	"weft/federationapi"
	fedapi "weft/federationapi/api"
	"weft/internal/cluster"
	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/internal/stream"
	"weft/internal/upkeep"
	"weft/keyserver"
	keyapi "weft/keyserver/api"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/mediaapi"
	"weft/roomserver"
	roomapi "weft/roomserver/api"
	"weft/syncapi"
	syncapiapi "weft/syncapi/api"
)

// parts are the components that this process runs, wired to each other and to those in other processes.
type parts struct {
	accounts clientapiapi.Accounts
	media    *mediaapi.Server // nil where this process does not run it
	routes   [][]httpapi.Route
	// runners do the background work of each component until their context ends.
	runners map[string]func(context.Context) error
}

func (p *parts) add(name string, run func(context.Context) error, routes []httpapi.Route) {
	if run != nil {
		p.runners[name] = run
	}
	if routes != nil {
		p.routes = append(p.routes, routes)
	}
}

// wiring is what wire knows while it makes one component after the other. Of each component the others see its
// interfaces: of one in another process, and of the room server where several processes run it, those of its Remote.
type wiring struct {
	*parts
	s    *Server
	name id.Server

	rooms     roomapi.Rooms
	directory roomapi.Directory
	inbound   roomapi.Federation
	keys      keyapi.Keys
	toDevice  keyapi.ToDevice
	backup    keyapi.Backup
	// Where two components of a process need each other, one gets a stand-in that is filled in before anything runs.
	outbound *lateOutbound
	sync     *lateSync
	users    *lateUsers
}

// wire makes the components, each after those that it needs.
func (s *Server) wire(ctx context.Context) (*parts, error) {
	w := &wiring{
		parts: &parts{runners: make(map[string]func(context.Context) error)}, s: s, name: id.Server(s.cfg.ServerName),
		outbound: &lateOutbound{}, sync: &lateSync{}, users: &lateUsers{},
	}
	w.add("upkeep", s.upkeep.Run, nil)
	w.add("bus", s.runBus, nil)
	s.upkeep.Add(upkeep.Task{Kind: "stream_times", Every: stream.NoteEvery, Run: func(ctx context.Context) (int64, error) {
		return 0, stream.Note(ctx, s.db, s.opts.Now())
	}})
	for _, c := range []struct {
		name string
		here func(context.Context) error
		away func()
	}{
		{"roomserver", w.roomServer, nil},
		{"keyserver", w.keyServer, w.keysAway},
		{"clientapi", w.clientAPI, w.accountsAway},
		{"syncapi", w.syncAPI, w.syncAway},
		{"mediaapi", w.mediaAPI, w.mediaAway},
		{"federationapi", w.federationAPI, w.federationAway},
	} {
		if s.router != nil && c.name == "roomserver" {
			r := roomapi.Remote{Caller: s.router}
			w.rooms, w.directory, w.inbound = r, r, r
		}
		if slices.Contains(s.cfg.Components, c.name) {
			if err := c.here(ctx); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
		} else if c.away != nil && s.router != nil {
			c.away()
		}
	}
	return w.parts, nil
}

func (w *wiring) roomServer(ctx context.Context) error {
	s := w.s
	var shares roomserver.Shares // a nil interface where nobody shares
	if c := s.shares(); c != nil {
		shares = named{c}
	}
	rooms, err := roomserver.New(ctx, roomserver.Config{
		DB: s.db, Events: s.events, Bus: s.bus, Log: s.part("roomserver"), Now: s.opts.Now, ServerName: w.name,
		Key: roomserver.Key{ID: s.key.ID, Private: s.key.Private}, Remote: s.fed, Keys: s.ring, Metrics: s.reg, Upkeep: s.upkeep.Of("roomserver"),
		Verify: s.opts.Verify, UserExists: w.users.exists, Shared: s.shared(), Shares: shares,
	})
	if err != nil {
		return err
	}
	if s.router == nil {
		w.rooms, w.directory, w.inbound = rooms, rooms, rooms
	} else {
		s.router.Add(roomapi.RoomsService, roomapi.RoomsMethods(rooms))
		s.router.Add(roomapi.DirectoryService, roomapi.DirectoryMethods(rooms))
		s.router.Add(roomapi.FederationService, roomapi.FederationMethods(rooms))
	}
	w.add("roomserver", rooms.Run, nil)
	return nil
}

func (w *wiring) keyServer(ctx context.Context) error {
	s := w.s
	keys, err := keyserver.New(ctx, keyserver.Config{
		DB: s.db, Bus: s.bus, Log: s.part("keyserver"), Now: s.opts.Now, ServerName: w.name,
		Rooms: s.events, Federation: s.fed, Outbound: w.outbound, Upkeep: s.upkeep.Of("keyserver"), Shared: s.shared(),
	})
	if err != nil {
		return err
	}
	w.keys, w.toDevice, w.backup = keys, keys, keys
	if s.router != nil {
		s.router.Add(keyapi.KeysService, keyapi.KeysMethods(keys))
		s.router.Add(keyapi.ToDeviceService, keyapi.ToDeviceMethods(keys))
		s.router.Add(keyapi.BackupService, keyapi.BackupMethods(keys))
	}
	w.add("keyserver", keys.Run, nil)
	return nil
}

func (w *wiring) keysAway() {
	r := keyapi.Remote{Caller: w.s.router}
	w.keys, w.toDevice, w.backup = r, r, r
}

func (w *wiring) clientAPI(ctx context.Context) error {
	s := w.s
	services, err := s.cfg.appservices()
	if err != nil {
		return err
	}
	accounts, err := clientapi.New(ctx, clientapi.Config{
		DB: s.db, Events: s.events, Bus: s.bus, Log: s.part("clientapi"), Now: s.opts.Now, ServerName: w.name, Metrics: s.reg,
		Upkeep: s.upkeep.Of("clientapi"),
		Rooms:  w.rooms, Directory: w.directory, Keys: w.keys, ToDevice: w.toDevice, Backup: w.backup, Sync: w.sync, Outbound: w.outbound, Fed: s.fed,
		Registration: s.cfg.registration(), Appservices: services, WellKnown: s.cfg.wellKnown(), TURN: s.cfg.turn(),
		DefaultRoomVersion:  event.RoomVersion(s.cfg.Rooms.DefaultVersion),
		AccessTokenLifetime: time.Duration(s.cfg.Accounts.AccessTokenLifetime), Shared: s.shared(),
	})
	if err != nil {
		return err
	}
	w.accounts, w.users.Accounts = accounts, accounts
	if s.router != nil {
		s.router.Add(clientapiapi.AccountsService, clientapiapi.AccountsMethods(accounts))
	}
	w.add("clientapi", accounts.Run, accounts.Routes())
	return nil
}

func (w *wiring) accountsAway() {
	w.accounts = clientapiapi.Remote{Caller: w.s.router}
	w.users.Accounts = w.accounts
	w.away("clientapi", (&clientapi.Server{}).Routes())
}

func (w *wiring) syncAPI(ctx context.Context) error {
	s := w.s
	var shares syncapi.Shares // a nil interface where nobody shares
	if c := s.shares(); c != nil {
		shares = c
	}
	syncer, err := syncapi.New(ctx, syncapi.Config{
		DB: s.db, Events: s.events, Tail: s.tail, Bus: s.bus, Log: s.part("syncapi"), Now: s.opts.Now, ServerName: w.name, Metrics: s.reg,
		Upkeep:   s.upkeep.Of("syncapi"),
		Accounts: w.accounts, Keys: w.keys, ToDevice: w.toDevice, Rooms: w.rooms, Outbound: w.outbound, Shared: s.shared(), Shares: shares,
	})
	if err != nil {
		return err
	}
	w.sync.Sync = syncer
	if s.router != nil {
		s.router.Add(syncapiapi.SyncService, syncapiapi.SyncMethods(syncer))
	}
	w.add("syncapi", syncer.Run, syncer.Routes())
	return nil
}

func (w *wiring) syncAway() {
	w.sync.Sync = syncapiapi.Remote{Caller: w.s.router}
	w.away("syncapi", (&syncapi.Server{}).Routes())
}

func (w *wiring) mediaConfig() mediaapi.Config {
	s := w.s
	return mediaapi.Config{
		DB: s.db, Bus: s.bus, Log: s.part("mediaapi"), Now: s.opts.Now, ServerName: w.name,
		Dir: s.cfg.mediaPath(), InDatabase: s.mediaPlace() == mediaInDatabase,
		MaxUpload: int64(s.cfg.Media.MaxUpload), Scalers: max(1, runtime.GOMAXPROCS(0)/2), Remote: s.fed,
		LegacyDownloads: s.cfg.Media.LegacyDownloads, Upkeep: s.upkeep.Of("mediaapi"),
		RemoteLifetime: time.Duration(s.cfg.Media.RemoteLifetime),
	}
}

func (w *wiring) mediaAPI(ctx context.Context) error {
	media, err := mediaapi.New(ctx, w.mediaConfig())
	if err != nil {
		return err
	}
	w.media = media
	w.add("mediaapi", media.Run, media.Routes())
	return nil
}

func (w *wiring) mediaAway() {
	w.away("mediaapi", (&mediaapi.Server{Config: w.mediaConfig()}).Routes())
}

func (w *wiring) federationConfig() federationapi.Config {
	s := w.s
	var shares federationapi.Shares // a nil interface where nobody shares
	if c := s.shares(); c != nil {
		shares = c
	}
	return federationapi.Config{
		DB: s.db, Events: s.events, Tail: s.tail, Bus: s.bus, Log: s.part("federationapi"), Now: s.opts.Now, ServerName: w.name,
		KeyID: s.key.ID, PrivateKey: s.key.Private, Version: s.opts.Version, Transport: s.fed, Notary: s.ring,
		WellKnown: s.cfg.WellKnown.Server,
		Rooms:     w.inbound, Directory: w.directory, Keys: w.keys, ToDevice: w.toDevice, Sync: w.sync, Accounts: w.accounts, Metrics: s.reg,
		Upkeep: s.upkeep.Of("federationapi"), Shares: shares,
	}
}

func (w *wiring) federationAPI(ctx context.Context) error {
	federation, err := federationapi.New(ctx, w.federationConfig())
	if err != nil {
		return err
	}
	w.outbound.Outbound = federation
	if w.s.router != nil {
		w.s.router.Add(fedapi.OutboundService, fedapi.OutboundMethods(federation))
	}
	w.add("federationapi", federation.Run, federation.Routes())
	return nil
}

func (w *wiring) federationAway() {
	w.outbound.Outbound = fedapi.Remote{Caller: w.s.router}
	w.away("federationapi", (&federationapi.Server{Config: w.federationConfig()}).Routes())
}

// away adds the endpoints of a component that this process does not run: it hands their requests on.
func (w *wiring) away(component string, routes []httpapi.Route) {
	forward := w.s.forwarder(component)
	for i := range routes {
		routes[i].Handler, routes[i].Forward = nil, forward
	}
	w.add(component, nil, routes)
}

// shared tells whether other processes may write to the database.
func (s *Server) shared() bool { return s.db.Dialect() == sqldb.Postgres }

// named are shares of work that two may do at once: whoever is named does it, also before its lease begins, so that
// what a process that died left behind does not wait for the next one's lease.
type named struct{ *cluster.Cluster }

// Owns implements roomserver.Shares.
func (n named) Owns(component, key string) bool {
	owner, ok := n.Owner(component, key)
	return ok && owner.ID == n.Self().ID
}

func (c *Config) registration() clientapi.Registration {
	r := c.Registration
	return clientapi.Registration{Mode: r.Mode, Tokens: r.Tokens, SharedSecret: r.SharedSecret, Guests: r.Guests}
}

func (c *Config) wellKnown() clientapi.WellKnown {
	w := clientapi.WellKnown{
		ClientBaseURL: c.WellKnown.Client, IdentityServerURL: c.WellKnown.IdentityServer, SupportPage: c.WellKnown.SupportPage,
	}
	if contact := c.WellKnown.SupportContact; contact != "" {
		sc := clientapi.SupportContact{Role: "m.role.admin"}
		if strings.HasPrefix(contact, "@") {
			sc.MatrixID = contact
		} else {
			sc.Email = contact
		}
		w.SupportContacts = append(w.SupportContacts, sc)
	}
	return w
}

func (c *Config) turn() clientapi.TURN {
	t := c.TURN
	return clientapi.TURN{URIs: t.URIs, SharedSecret: t.SharedSecret, Username: t.Username, Password: t.Password, TTL: time.Duration(t.Lifetime)}
}
