<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<!-- Lines and polygons are sublayers of one GeoJSON file with one style: hence rules by geometry, and no type of layer. -->
<qgis styleCategories="Symbology|Labeling|Temporal" version="3.22" labelsEnabled="1">
  <temporal enabled="1" mode="1" startField="time" endField="" fixedDuration="10" durationUnit="min" durationField="" accumulate="0" limitMode="0" startExpression="" endExpression=""/>
  <renderer-v2 type="RuleRenderer" enableorderby="0" symbollevels="0" forceraster="0">
    <rules key="contrails">
      <rule symbol="0" key="lines" filter="geometry_type($geometry) = 'Line'" label="centre line: colour by track, width by confidence"/>
      <rule symbol="1" key="outlines" filter="geometry_type($geometry) = 'Polygon'" label="outline: colour by track"/>
    </rules>
    <symbols>
      <symbol type="line" name="0" alpha="1" clip_to_extent="1" force_rhr="0">
        <layer class="SimpleLine" pass="0" enabled="1" locked="0">
          <Option type="Map">
            <Option type="QString" name="line_color" value="255,0,255,255"/>
            <Option type="QString" name="line_width" value="0.7"/>
            <Option type="QString" name="line_width_unit" value="MM"/>
            <Option type="QString" name="line_style" value="solid"/>
            <Option type="QString" name="capstyle" value="round"/>
            <Option type="QString" name="joinstyle" value="round"/>
          </Option>
          <data_defined_properties>
            <Option type="Map">
              <Option type="QString" name="name" value=""/>
              <Option type="Map" name="properties">
                <Option type="Map" name="outlineColor">
                  <Option type="bool" name="active" value="true"/>
                  <Option type="QString" name="expression" value="coalesce(color_hsv((137 * to_int(regexp_substr(&quot;track&quot;, '-(\\d+)$')) + 47 * to_int(substr(&quot;track&quot;, 10, 4))) % 360, 75, 100), '#ff00ff')"/>
                  <Option type="int" name="type" value="3"/>
                </Option>
                <Option type="Map" name="outlineWidth">
                  <Option type="bool" name="active" value="true"/>
                  <Option type="QString" name="expression" value="coalesce(scale_linear(&quot;confidence&quot;, 0, 1, 0.3, 1), 0.7)"/>
                  <Option type="int" name="type" value="3"/>
                </Option>
              </Option>
              <Option type="QString" name="type" value="collection"/>
            </Option>
          </data_defined_properties>
        </layer>
      </symbol>
      <symbol type="fill" name="1" alpha="1" clip_to_extent="1" force_rhr="0">
        <layer class="SimpleFill" pass="0" enabled="1" locked="0">
          <Option type="Map">
            <Option type="QString" name="color" value="255,0,255,40"/>
            <Option type="QString" name="style" value="solid"/>
            <Option type="QString" name="outline_color" value="255,0,255,255"/>
            <Option type="QString" name="outline_style" value="solid"/>
            <Option type="QString" name="outline_width" value="0.3"/>
            <Option type="QString" name="outline_width_unit" value="MM"/>
          </Option>
          <data_defined_properties>
            <Option type="Map">
              <Option type="QString" name="name" value=""/>
              <Option type="Map" name="properties">
                <Option type="Map" name="fillColor">
                  <Option type="bool" name="active" value="true"/>
                  <Option type="QString" name="expression" value="set_color_part(coalesce(color_hsv((137 * to_int(regexp_substr(&quot;track&quot;, '-(\\d+)$')) + 47 * to_int(substr(&quot;track&quot;, 10, 4))) % 360, 75, 100), '#ff00ff'), 'alpha', 40)"/>
                  <Option type="int" name="type" value="3"/>
                </Option>
                <Option type="Map" name="outlineColor">
                  <Option type="bool" name="active" value="true"/>
                  <Option type="QString" name="expression" value="coalesce(color_hsv((137 * to_int(regexp_substr(&quot;track&quot;, '-(\\d+)$')) + 47 * to_int(substr(&quot;track&quot;, 10, 4))) % 360, 75, 100), '#ff00ff')"/>
                  <Option type="int" name="type" value="3"/>
                </Option>
              </Option>
              <Option type="QString" name="type" value="collection"/>
            </Option>
          </data_defined_properties>
        </layer>
      </symbol>
    </symbols>
  </renderer-v2>
  <labeling type="rule-based">
    <rules key="labels">
      <rule key="line-labels" filter="geometry_type($geometry) = 'Line'">
        <settings calloutType="simple">
          <text-style fieldName="if(&quot;track&quot; is null, to_string(&quot;id&quot;), substr(&quot;track&quot;, 10, 4) || '-' || regexp_substr(&quot;track&quot;, '-(\\d+)$') || coalesce('\n' || round(&quot;speed_m_s&quot;) || ' m/s', ''))" isExpression="1" fontSize="8" fontSizeUnit="Point" textColor="255,255,255,255" textOpacity="1">
            <text-buffer bufferDraw="1" bufferSize="0.7" bufferSizeUnits="MM" bufferColor="0,0,0,255" bufferOpacity="1"/>
          </text-style>
          <placement placement="2" placementFlags="10" dist="1" distUnits="MM"/>
          <rendering drawLabels="1" scaleVisibility="0" obstacle="1" upsidedownLabels="0"/>
        </settings>
      </rule>
    </rules>
  </labeling>
</qgis>
