-- Every type, with the values at its ends: in the image, through the stream, changed, as NULL.

--- image
CREATE EXTENSION IF NOT EXISTS citext SCHEMA public;
CREATE EXTENSION IF NOT EXISTS hstore SCHEMA public;
CREATE EXTENSION IF NOT EXISTS ltree SCHEMA public;
CREATE EXTENSION IF NOT EXISTS cube SCHEMA public;
CREATE EXTENSION IF NOT EXISTS isn SCHEMA public;
CREATE TYPE mood AS ENUM ('sad', 'so so', 'it''s "fine"', '');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN short_texts AS text[] CHECK (cardinality(value) < 5);
CREATE TYPE address AS (street text, number int, extra text);
CREATE TYPE person AS (name text, home address, moods mood[], numbers int[]);
CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi, multirange_type_name = span_multi);
CREATE TABLE other (id int PRIMARY KEY);
CREATE TABLE "An other" (id int PRIMARY KEY);
CREATE FUNCTION plus_one(int) RETURNS int LANGUAGE sql AS 'SELECT $1 + 1';

-- A type and its values at the ends; column cN holds the type with number N.
CREATE TABLE kind (n serial PRIMARY KEY, type text, ends text[]);
INSERT INTO kind (type, ends) VALUES
    ('smallint', ARRAY['-32768', '32767', '0']),
    ('integer', ARRAY['-2147483648', '2147483647']),
    ('bigint', ARRAY['-9223372036854775808', '9223372036854775807']),
    ('numeric', ARRAY['NaN', 'Infinity', '-Infinity', '0', '0.000', '-1.50', '1e-16383', '1e1000',
                      '99999999999999999999999999999999999999.99999999999999999999']),
    ('numeric(10,2)', ARRAY['NaN', '99999999.99', '-0.00']),
    ('real', ARRAY['NaN', 'Infinity', '-Infinity', '-0', '1e-45', '3.4028235e38', '0.1']),
    ('double precision', ARRAY['NaN', 'Infinity', '-Infinity', '-0', '5e-324', '1.7976931348623157e308',
                               '0.30000000000000004', '1e15', '1e16']),
    ('money', ARRAY['-92233720368547758.08', '92233720368547758.07', '0.01']),
    ('boolean', ARRAY['t', 'f']),
    ('text', ARRAY['', ' x ']),
    ('varchar(5)', ARRAY['', 'ab   ']),
    ('char(5)', ARRAY['', 'ab']),
    ('"char"', ARRAY['', 'x', '\377']),
    ('name', ARRAY['', 'a name']),
    ('bytea', ARRAY['', '\x00ff5c0a09', '\xdeadbeef']),
    ('bit(5)', ARRAY['10101', '00000']),
    ('varbit', ARRAY['', '1', '101010101010101010101010101010101']),
    ('date', ARRAY['4714-11-24 BC', '5874897-12-31', 'infinity', '-infinity', '0001-01-01 BC']),
    ('time', ARRAY['00:00:00', '24:00:00', '23:59:59.999999']),
    ('timetz', ARRAY['00:00:00+15:59', '24:00:00-15:59:59', '12:00:00.000001+00']),
    ('timestamp', ARRAY['4714-11-24 00:00:00 BC', '294276-12-31 23:59:59.999999', 'infinity', '-infinity']),
    ('timestamptz', ARRAY['4714-11-24 00:00:00+00 BC', '294276-12-31 23:59:59.999999+00', 'infinity', '-infinity',
                          '2024-02-29 12:00:00.5+05:30']),
    ('timestamp(0)', ARRAY['2024-01-01 00:00:00']),
    ('interval', ARRAY['-178000000 years', '178000000 years', '1 year -2 mons 3 days -04:05:06.789', '00:00:00',
                       '-00:00:00.000001', '1 mon', '30 days']),
    ('interval day to second(2)', ARRAY['1 day 00:00:01.23']),
    ('inet', ARRAY['0.0.0.0/0', '255.255.255.255', '10.1.2.3/8', '::', '::ffff:1.2.3.4/96', 'fe80::1/64']),
    ('cidr', ARRAY['0.0.0.0/0', '10.0.0.0/8', '2001:db8::/32']),
    ('macaddr', ARRAY['00:00:00:00:00:00', 'ff:ff:ff:ff:ff:ff']),
    ('macaddr8', ARRAY['00:00:00:00:00:00:00:00', 'ff:ff:ff:ff:ff:ff:ff:ff']),
    ('uuid', ARRAY['00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff']),
    ('pg_lsn', ARRAY['0/0', 'FFFFFFFF/FFFFFFFF']),
    ('oid', ARRAY['0', '4294967295']),
    ('xid', ARRAY['0', '4294967295']),
    ('xid8', ARRAY['0', '18446744073709551615']),
    ('cid', ARRAY['0', '4294967295']),
    ('tid', ARRAY['(0,0)', '(4294967295,65535)']),
    ('txid_snapshot', ARRAY['1:1:', '10:20:10,14,15']),
    ('pg_snapshot', ARRAY['1:1:', '10:20:10,14,15']),
    ('point', ARRAY['(NaN,Infinity)', '(-0,1e308)', '(0.1,0.2)']),
    ('line', ARRAY['{1,-1,0}', '{0.1,5e-4,3}']),
    ('lseg', ARRAY['[(0,0),(1,-1)]']),
    ('box', ARRAY['(1,1),(0,0)', '(NaN,1),(0,-0)']),
    ('path', ARRAY['[(0,0),(1,1),(2,0)]', '((0,0),(1,1))']),
    ('polygon', ARRAY['((0,0),(1,1),(2,0))']),
    ('circle', ARRAY['<(0,0),0>', '<(0.1,-5),1e300>']),
    ('json', ARRAY['{"a":1,  "a":2, "b" : [1 ,2]}', 'null', ' {} ', '"\u00e9\n"', '1.000']),
    ('jsonb', ARRAY['{"a":1,"b":[1.00,2e5,null,true]}', 'null', '{}', '[]', '"\u00e9\n\\"',
                    '12345678901234567890.12345678901234567890']),
    ('jsonpath', ARRAY['$."a"[*]?(@ > 1)', 'strict $']),
    ('tsvector', ARRAY['', '''a'':1A,2B ''b c'':3 ''it''''s'' ''back\\slash''']),
    ('tsquery', ARRAY['', '''a'' & !( ''b'':*A | ''c'' <-> ''d'' )']),
    ('int4range', ARRAY['empty', '[1,10)', '(,)', '(,5)', '[-2147483648,2147483647)']),
    ('int8range', ARRAY['empty', '[1,)', '[-9223372036854775808,9223372036854775807)']),
    ('numrange', ARRAY['empty', '[1.0,1.00]', '(1,NaN)', '(,)']),
    ('tsrange', ARRAY['[-infinity,infinity]', '[2020-01-01,)', '(4714-11-24 BC,infinity)']),
    ('tstzrange', ARRAY['[-infinity,infinity)', '(,2020-01-01 00:00+00]']),
    ('daterange', ARRAY['[2020-01-01,infinity]', '[4714-11-24 BC,0001-01-01)', 'empty']),
    ('int4multirange', ARRAY['{}', '{[1,2),[5,9)}', '{(,1),[5,)}']),
    ('int8multirange', ARRAY['{}', '{[1,2),[5,)}']),
    ('nummultirange', ARRAY['{}', '{[1.0,1.50],(2,)}']),
    ('tsmultirange', ARRAY['{}', '{[-infinity,2020-01-01),[2021-01-01,infinity]}']),
    ('tstzmultirange', ARRAY['{}', '{[-infinity,2020-01-01 00:00+00)}']),
    ('datemultirange', ARRAY['{}', '{[2020-01-01,2020-02-01),[2021-01-01,)}']),
    ('xml', ARRAY['<a b="c">&amp;<!-- x --></a>', '', 'text <b/> more', '<?xml version="1.0"?><a/>']),
    ('regclass', ARRAY['pg_class', 'types.other', '0', 'types."An other"']),
    ('regtype', ARRAY['integer', 'types.mood', 'character varying', '0']),
    ('regproc', ARRAY['now', 'types.plus_one', '0']),
    ('regprocedure', ARRAY['sum(integer)', 'types.plus_one(integer)', '0']),
    ('regoper', ARRAY['pg_catalog.||/', '0']),
    ('regoperator', ARRAY['+(integer,integer)', '0']),
    ('regconfig', ARRAY['simple']),
    ('regdictionary', ARRAY['simple']),
    ('regnamespace', ARRAY['pg_catalog', 'types']),
    ('regrole', ARRAY['postgres', '0']),
    ('regcollation', ARRAY['"C"', '"POSIX"']),
    ('integer[]', ARRAY['{}', '{1,NULL,-3}', '{{1,2},{3,4}}', '[-1:0]={1,2}', '[0:1][5:6]={{1,2},{3,4}}']),
    ('text[]', ARRAY['{}', '{NULL,"NULL","","a b","a\"b","a\\b","{}","a,b",é}', '{{a,b},{c,NULL}}']),
    ('bytea[]', ARRAY['{"\\x00",NULL,"\\x"}']),
    ('jsonb[]', ARRAY['{"{\"a\": 1}",NULL,"[]"}']),
    ('float8[]', ARRAY['{NaN,-0,Infinity,5e-324}']),
    ('timestamptz[]', ARRAY['{infinity,NULL,"4714-11-24 00:00:00+00 BC"}']),
    ('numrange[]', ARRAY['{"[1.0,2)",empty,NULL}']),
    ('box[]', ARRAY['{(1,1),(0,0);(2,2),(1,1)}']),
    ('boolean[]', ARRAY['{t,f,NULL}']),
    ('interval[]', ARRAY['{"1 mon -1 days",00:00:00}']),
    ('types.mood', ARRAY['sad', 'so so', 'it''s "fine"', '']),
    ('types.mood[]', ARRAY['{sad,"so so",NULL}']),
    ('types.positive', ARRAY['1', '2147483647']),
    ('types.short_texts', ARRAY['{a,b}', '{}']),
    ('types.address', ARRAY['(Main,12,)', '("a ""b"", c",0,"\\back")', '(,,)', '("",1," ")']),
    ('types.address[]', ARRAY['{"(Main,12,)",NULL,"(\"a, b\",0,)"}']),
    ('types.person', ARRAY['(name,"(Main,12,)","{sad,NULL}","{1,2}")', '(,,,)']),
    ('types.span', ARRAY['[0.5,1.25)', 'empty', '(,)']),
    ('types.span_multi', ARRAY['{[0.5,1),[2,3]}', '{}']),
    ('public.citext', ARRAY['MiXed', 'ÄÖ']),
    ('public.citext[]', ARRAY['{A,a,NULL}']),
    ('public.hstore', ARRAY['"a"=>"1", "b"=>NULL, "c d"=>"\"x\""', '']),
    ('public.ltree', ARRAY['Top.Science_1.x', '']),
    ('public.cube', ARRAY['(1, 2, 3)', '(0),(1)']),
    ('public.isbn', ARRAY['978-0-393-04002-9']),
    ('int2vector', ARRAY['1 2 3', '']),
    ('oidvector', ARRAY['1 4294967295', '']),
    ('aclitem', ARRAY['postgres=arw/postgres']);
-- All in one table: with a key, and told apart by the whole row although many types know no equality.
DO $$
DECLARE columns text := (SELECT string_agg(format('c%s %s', n, type), ', ' ORDER BY n) FROM types.kind);
BEGIN
    EXECUTE format('CREATE TABLE types.keyed (id int PRIMARY KEY, %s)', columns);
    EXECUTE format('CREATE TABLE types.bag (id int, %s)', columns);
    ALTER TABLE types.bag REPLICA IDENTITY FULL;
END $$;
-- Row r of a step holds the rth value of every type that has so many; the others are NULL.
CREATE FUNCTION fill(place text, step int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE statement text;
BEGIN
    FOR r IN 0..9 LOOP
        SELECT format('INSERT INTO types.%I (id, %s) VALUES (%s, %s)', place, string_agg('c' || n, ', ' ORDER BY n),
                      step * 100 + r, string_agg(quote_nullable(ends[r]), ', ' ORDER BY n))
          INTO statement FROM types.kind;
        EXECUTE statement;
    END LOOP;
END $$;
-- Every value moves to the row before, one column after the other: NULL becomes a value, a value NULL.
CREATE FUNCTION shift(place text, step int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE k record;
BEGIN
    FOR k IN SELECT * FROM types.kind ORDER BY n LOOP
        EXECUTE format('UPDATE types.%1$I a SET c%2$s = (SELECT c%2$s FROM types.%1$I b
            WHERE b.id = a.id + 1 LIMIT 1) WHERE id BETWEEN %3$s AND %3$s + 9', place, k.n, step * 100);
    END LOOP;
END $$;
SELECT fill('keyed', 0), fill('bag', 0), fill('bag', 0);

--- each
SELECT fill('keyed', :step), fill('bag', :step);
UPDATE keyed SET id = id + 5000 WHERE id = :step * 100 + 1;
DELETE FROM keyed WHERE id = :step * 100 + 2;
DELETE FROM bag WHERE ctid IN (SELECT min(ctid) FROM bag WHERE id < 10 GROUP BY id HAVING id = :step);

--- first
SELECT shift('keyed', 0);

--- second
SELECT shift('bag', 1);

--- third
SELECT shift('keyed', 1);
SELECT shift('keyed', 0);
